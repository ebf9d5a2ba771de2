r"""Class-distance normalized variance (CDNV).

Galanti, György, Hutter, "On the role of neural collapse in transfer learning" (arXiv 2112.15121)::

    V_ij = (var_i + var_j) / (2 ||mu_i - mu_j||^2)

with the biased within-class variances ``var_c = M2_c / n_c``, averaged over the pairs i != j of
non-empty classes. Averaging ``var_i / ||mu_i - mu_j||^2`` over ordered pairs gives the same number
(arXiv 2506.04411); some code leaves out the half (``convention="sum"``).

Squared distances come from products of means, ``||a||^2 + ||b||^2 - 2 a.b``, in float64 around the
mean of the means, block by block. Where the result is so small beside its terms that digits
cancelled, the pair is computed again from the difference of its means.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sslkernels import _checks
from sslkernels.statistics.class_moments import ClassMoments

_BLOCK = 1024  # rows of means per block: 1024 x C distances in float64 at a time
_CANCELLED = 1e-4  # below this share of its terms, a float64 distance has lost 4 of its 16 digits
_PAIR_CHUNK = 4096  # pairs recomputed at a time: 4096 x D differences


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
        raise TypeError(f"m: takes ClassMoments, got {type(m).__name__}")
    _checks.one_of(reduction, "reduction", ("mean", "none"))
    scale = {"galanti": 0.5, "sum": 1.0}[
        _checks.one_of(convention, "convention", ("galanti", "sum"))
    ]
    filled = (m.counts > 0).nonzero().squeeze(1)
    means, variances = m.centers()[filled], m.variances[filled]
    size = len(filled)
    if reduction == "mean":
        total = means.new_zeros(())
        for _, ratios in _ratio_blocks(means, variances):
            total += ratios.triu(1).sum()  # the block starts on the diagonal: rows i, columns >= i
        return total * (scale / (size * (size - 1) / 2)) if size > 1 else total * torch.nan
    square = means.new_empty(size, size)
    for start, ratios in _ratio_blocks(means, variances):
        square[start : start + len(ratios), start:] = ratios * scale
    square.triu_(1)  # below the diagonal, blocks are left as the product made them
    square = square + square.T
    square.fill_diagonal_(torch.nan)
    out = means.new_full((m.num_classes, m.num_classes), torch.nan)
    out[filled.unsqueeze(1), filled] = square
    return out


def _ratio_blocks(
    means: torch.Tensor, variances: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor]]:
    """``(start, (var_i + var_j) / d_ij^2)`` for i in [start, start + block), j >= start."""
    a = means - means.mean(0) if len(means) else means
    norms = a.square().sum(1)
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        terms = norms[rows, None] + norms[start:]
        d2 = torch.addmm(terms, a[rows], a[start:].T, alpha=-2.0)
        lost = (d2 < _CANCELLED * terms).triu(1).nonzero()
        for pairs in lost.split(_PAIR_CHUNK):
            i, j = pairs.unbind(1)
            d2[i, j] = (a[start + i] - a[start + j]).square().sum(1)
        yield start, (variances[rows, None] + variances[start:]) / d2
