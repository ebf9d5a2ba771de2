"""pytorch-metric-learning's VICReg: ``from sslkernels.compat.metric_learning import VICRegLoss``.

Names, arguments, defaults and conventions of ``pytorch_metric_learning.losses.VICRegLoss``, whose
reducers it takes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from sslkernels.compat._shared import matrix, vicreg
from sslkernels.losses import _checks, covariance_loss
from sslkernels.numerics.views import result_dtype

_NAMES = ("embeddings", "ref_emb")


class VICRegLoss(torch.nn.Module):
    """VICReg as ``pytorch_metric_learning.losses.VICRegLoss``.

    Args:
        invariance_lambda: weight of the invariance term; a tensor of one number gets its gradient,
            and so for the other weights.
        variance_mu: weight of the variance term, half the sum over the two views.
        covariance_v: weight of the covariance term, the sum over the two views.
        eps: added to variances before the square root.
        reducer: one of ``pytorch_metric_learning.reducers``, for the invariance loss of each row
            and the variance loss of each column; None for their mean, fused with the rest.
        collect_stats: as in the original, an attribute; the loss itself records nothing.

    Raises:
        ValueError: ``distance`` or ``embedding_regularizer`` is given, as by the original.
        ImportError: a reducer is given, and pytorch-metric-learning is not installed.

    Example:
        >>> import torch
        >>> from sslkernels.compat.metric_learning import VICRegLoss
        >>> z = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
        >>> VICRegLoss(invariance_lambda=1)(z, ref_emb=z + 1)
        tensor(9.)
    """

    def __init__(
        self,
        invariance_lambda: float | Tensor = 25,
        variance_mu: float | Tensor = 25,
        covariance_v: float | Tensor = 1,
        eps: float = 1e-4,
        *,
        reducer: Any = None,
        collect_stats: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if "distance" in kwargs:
            raise ValueError("VICRegLoss cannot use a distance function")
        if "embedding_regularizer" in kwargs:
            raise ValueError("VICRegLoss cannot use a regularizer")
        if kwargs:
            raise TypeError(f"VICRegLoss got unexpected keyword arguments: {', '.join(kwargs)}")
        super().__init__()
        self.invariance_lambda = invariance_lambda
        self.variance_mu = variance_mu
        self.covariance_v = covariance_v
        self.eps = eps
        self.reducer = None if reducer is None else _of_every_term(reducer)
        self.collect_stats = bool(collect_stats)

    def forward(
        self,
        embeddings: Tensor,
        labels: None = None,
        indices_tuple: None = None,
        ref_emb: Tensor | None = None,
        ref_labels: None = None,
    ) -> Any:
        """The loss of two views (batch_size, embedding_size); without ``ref_emb``, of one view
        taken twice. With a reducer, what it makes of the terms.

        Raises:
            ValueError: labels or indices_tuple are given, as by the original.
        """
        if indices_tuple is not None:
            raise ValueError("indices_tuple: not supported by this loss")
        if labels is not None or ref_labels is not None:
            raise ValueError("labels and ref_labels: not supported by this loss")
        matrix(embeddings, "embeddings")
        second = embeddings if ref_emb is None else ref_emb
        if self.reducer is not None:
            _checks.pair(embeddings, second, min_rows=2, names=_NAMES)
            return self.reducer(self._terms(embeddings, second), embeddings, None)
        weights = ("invariance_lambda", "variance_mu", "covariance_v")
        given = {name: getattr(self, name) for name in weights}
        return vicreg(embeddings, second, given, self.eps, None, _NAMES)

    def _terms(self, x: Tensor, y: Tensor) -> dict[str, dict[str, Any]]:
        """What the original gives its reducers; only the covariance term is fused."""
        dtype = result_dtype(x.dtype)
        rows = (x.to(dtype) - y.to(dtype)).square().mean(1)
        terms = {"invariance_loss": _each(self.invariance_lambda * rows)}
        for i, z in enumerate((x, y), 1):
            hinge = torch.relu(1 - (z.to(dtype).var(0) + self.eps).sqrt()) / 2
            terms[f"variance_loss{i}"] = _each(self.variance_mu * hinge)
        terms["covariance_loss"] = {
            "losses": self.covariance_v * (covariance_loss(x) + covariance_loss(y)),
            "indices": None,
            "reduction_type": "already_reduced",
        }
        return terms


def _each(losses: Tensor) -> dict[str, Any]:
    indices = torch.arange(len(losses), device=losses.device)
    return {"losses": losses, "indices": indices, "reduction_type": "element"}


def _of_every_term(reducer: Any) -> Any:
    """As the original: a copy for every term, whose results are added up."""
    try:
        from pytorch_metric_learning import reducers
    except ImportError as error:
        raise ImportError(
            "reducer: expected one of pytorch_metric_learning.reducers: "
            "pip install pytorch-metric-learning"
        ) from error
    if isinstance(reducer, (reducers.MultipleReducers, reducers.DoNothingReducer)):
        return reducer
    names = ("invariance_loss", "variance_loss1", "variance_loss2", "covariance_loss")
    return reducers.MultipleReducers({name: copy.deepcopy(reducer) for name in names})
