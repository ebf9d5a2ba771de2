"""pytorch-metric-learning's VICReg: ``from sslkernels.compat.metric_learning import VICRegLoss``.

Names, arguments, defaults and conventions of ``pytorch_metric_learning.losses.VICRegLoss``, with
its mean reducer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.compat._shared import matrix
from sslkernels.losses import vicreg_loss


class VICRegLoss(torch.nn.Module):
    """VICReg as ``pytorch_metric_learning.losses.VICRegLoss``.

    Args:
        invariance_lambda: weight of the invariance term.
        variance_mu: weight of the variance term, half the sum over the two views.
        covariance_v: weight of the covariance term, the sum over the two views.
        eps: added to variances before the square root.
        reducer: None, for their default, the mean.
        collect_stats: None or False.

    Raises:
        ValueError: ``distance`` or ``embedding_regularizer`` is given, as by the original.
        NotImplementedError: a reducer, or statistics, are asked for.

    Example:
        >>> import torch
        >>> from sslkernels.compat.metric_learning import VICRegLoss
        >>> z = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
        >>> VICRegLoss(invariance_lambda=1)(z, ref_emb=z + 1)
        tensor(9.)
    """

    def __init__(
        self,
        invariance_lambda: float = 25,
        variance_mu: float = 25,
        covariance_v: float = 1,
        eps: float = 1e-4,
        *,
        reducer: None = None,
        collect_stats: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if "distance" in kwargs:
            raise ValueError("VICRegLoss cannot use a distance function")
        if "embedding_regularizer" in kwargs:
            raise ValueError("VICRegLoss cannot use a regularizer")
        if kwargs:
            raise TypeError(f"VICRegLoss got unexpected keyword arguments: {', '.join(kwargs)}")
        if reducer is not None:
            raise NotImplementedError(
                f"reducer: takes None, for the mean, got {type(reducer).__name__}: the loss of "
                "each row is not kept"
            )
        if collect_stats:
            raise NotImplementedError("collect_stats: takes None or False: nothing is recorded")
        super().__init__()
        self.invariance_lambda = invariance_lambda
        self.variance_mu = variance_mu
        self.covariance_v = covariance_v
        self.eps = eps

    def forward(
        self,
        embeddings: Tensor,
        labels: None = None,
        indices_tuple: None = None,
        ref_emb: Tensor | None = None,
        ref_labels: None = None,
    ) -> Tensor:
        """The loss of two views (batch_size, embedding_size); without ``ref_emb``, of one view
        taken twice.

        Raises:
            ValueError: labels or indices_tuple are given, as by the original.
        """
        if indices_tuple is not None:
            raise ValueError("indices_tuple: not supported by this loss")
        if labels is not None or ref_labels is not None:
            raise ValueError("labels and ref_labels: not supported by this loss")
        matrix(embeddings, "embeddings")
        return vicreg_loss(
            embeddings,
            embeddings if ref_emb is None else ref_emb,
            sim_coeff=self.invariance_lambda,
            std_coeff=self.variance_mu,
            cov_coeff=self.covariance_v,
            eps=self.eps,
        )
