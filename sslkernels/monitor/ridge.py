r"""A linear probe in closed form: ridge regression of the classes on the embeddings.

With the covariance S of the rows around their mean g, the class means ``mu_c`` and the shares
``p_c = n_c / N``, the least-squares fit of one-hot targets with penalty ``r`` times the mean
eigenvalue of S is::

    W = (S + r tr(S) / D I)^{-1} B        B[:, c] = p_c (mu_c - g)        b_c = p_c

and a row is given the class of the largest ``(z - g) W + b``. S and the means are sums that are
accumulated anyway, so the probe costs one factorisation and one product with the rows. It is not
the logistic regression that "linear probe" often means: with few classes that overlap along a line
the squared loss can hide the middle one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.statistics import ClassMoments, PooledScatter
from sslkernels.statistics._dense import threads_for

RIDGE = 1e-3  # of the mean eigenvalue: rows few beside the columns would else be fitted exactly


class RidgeProbe(NamedTuple):
    """``scores = z @ weight + bias``; the largest is the class."""

    weight: Tensor  # float64 [D, C]
    bias: Tensor  # float64 [C]; -inf for a class without rows

    def predict(self, z: Tensor) -> Tensor:
        """int64 [n]: the class of each row."""
        return (z.double() @ self.weight + self.bias).argmax(1)


class Ridge:
    """The factored covariance of all rows, which the probes of every labeling share.

    Args:
        total: the scatter of the rows, one class.
        ridge: the penalty, in mean eigenvalues of the covariance.
    """

    def __init__(self, total: PooledScatter, ridge: float = RIDGE) -> None:
        self._mean = total.moments.centers()[0]
        covariance = total.covariance
        # A constant layer has no direction to tell classes by: every row gets the commonest.
        floor = torch.finfo(torch.float64).tiny
        covariance.diagonal().add_((ridge * covariance.diagonal().mean()).clamp(min=floor))
        with threads_for(len(covariance)):
            self._factor = torch.linalg.cholesky(covariance)

    def fit(self, m: ClassMoments) -> RidgeProbe:
        """The probe for the classes of ``m``, moments of the same rows."""
        counts = m.counts.double()
        shares = counts / counts.sum()
        between = (m.centers() - self._mean).nan_to_num() * shares.unsqueeze(1)
        weight = torch.cholesky_solve(between.T.contiguous(), self._factor)
        bias = shares - self._mean @ weight
        return RidgeProbe(weight, bias.masked_fill(m.counts == 0, -torch.inf))
