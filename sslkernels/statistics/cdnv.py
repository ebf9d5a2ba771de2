r"""Class-distance normalized variance (CDNV).

Galanti, György, Hutter, "On the role of neural collapse in transfer learning" (arXiv 2112.15121)::

    V_ij = (var_i + var_j) / (2 ||mu_i - mu_j||^2)

with the biased within-class variances ``var_c = M2_c / n_c``, averaged over the pairs i != j of
non-empty classes. Averaging ``var_i / ||mu_i - mu_j||^2`` over ordered pairs gives the same number
(arXiv 2506.04411); some code leaves out the half (``convention="sum"``).

Pairs of means are a pass of the backends (``cdnv_sum``), without a C x C matrix; the matrix, where
asked for, comes from dense operations.
"""

from __future__ import annotations

import torch

from sslkernels import _checks
from sslkernels._gate import gated
from sslkernels.numerics.means import around_their_mean, squared_distances
from sslkernels.passes.mean_pairs import cdnv_sum
from sslkernels.statistics.class_moments import ClassMoments


@gated
def cdnv(m: ClassMoments, *, reduction: str = "mean", convention: str = "galanti") -> torch.Tensor:
    """Class-distance normalized variance of the classes of ``m``.

    Args:
        m: what :func:`class_moments` returns.
        reduction: ``"mean"`` over all pairs of distinct non-empty classes, without a C x C matrix;
            ``"none"`` for the matrix itself.
        convention: ``"galanti"`` as published; ``"sum"`` leaves out the half, twice as large.

    Returns:
        float64 0-d, NaN with fewer than two non-empty classes; or [C, C], NaN on the diagonal and
        in the rows and columns of empty classes. Two classes with one and the same mean have an
        infinite CDNV, NaN if neither varies.

    Example:
        >>> import torch, sslkernels as ssk
        >>> z = torch.tensor([[-1., 0.], [1., 0.], [9., 0.], [11., 0.]])
        >>> float(ssk.cdnv(ssk.class_moments(z, torch.tensor([0, 0, 1, 1]), 2)))
        0.01
    """
    if not isinstance(m, ClassMoments):
        raise TypeError(f"m: expected ClassMoments, got {type(m).__name__}")
    _checks.one_of(reduction, "reduction", ("mean", "none"))
    scale = {"galanti": 0.5, "sum": 1.0}[
        _checks.one_of(convention, "convention", ("galanti", "sum"))
    ]
    if reduction == "mean":
        counts = m.counts  # first: this is where a device's bad label is reported
        total, pairs = cdnv_sum(m._mean, m.m2, counts)
        return 2 * scale * total / pairs
    filled = (m.counts > 0).nonzero().squeeze(1)
    means, variances = around_their_mean(m.centers()[filled]), m.variances[filled]
    square = scale * (variances[:, None] + variances) / squared_distances(means, means)
    out = means.new_full((m.num_classes, m.num_classes), torch.nan)
    out[filled.unsqueeze(1), filled] = square
    return out.fill_diagonal_(torch.nan)
