"""Sums over pairs of class means in C++: the method and its error bounds are in
``csrc/mean_pairs/mean_pairs.h``."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sslkernels.backends.cpu import _C  # type: ignore[attr-defined]
from sslkernels.backends.cpu._views import pointer


def cdnv_sum(
    mean: torch.Tensor,  # [C, D] float64, contiguous; rows of empty classes mean nothing
    m2: torch.Tensor,  # [C] float64, contiguous
    counts: torch.Tensor,  # [C] int64, contiguous
    cuts: Mapping[str, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of ``(var_i + var_j) / (2 d_ij^2)`` over the pairs i < j of non-empty classes,
    float64 0-d, and how many pairs there are, int64 0-d.

    Two classes with one mean make the sum infinite, or NaN if neither varies; a class with NaN
    makes it NaN. Relative error: 1e-12 up to 512 classes; else that of V_ij is at most 2e-6 in
    standard deviation for the closest pairs that fp32 products are kept for, and averages out over
    pairs. Memory: 4 C D bytes. The bits do not depend on the number of threads.
    """
    return _sum(mean, pointer(m2), counts, cuts)


def cosine_gap_sum(
    mean: torch.Tensor,  # [C, D] float64, contiguous; rows of empty classes mean nothing
    counts: torch.Tensor,  # [C] int64, contiguous
    cuts: Mapping[str, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of ``|cos(m_i, m_j) + 1 / (C - 1)|`` over the pairs i < j of non-empty classes (their
    number C, their means m centered by the mean of the means), float64 0-d, and how many pairs
    there are, int64 0-d.

    NaN where a centered mean is zero or not finite. Above 512 classes a cosine is off by some
    1e-8. Memory and bits as :func:`cdnv_sum`.
    """
    return _sum(mean, None, counts, cuts)


def _sum(
    mean: torch.Tensor, m2: int | None, counts: torch.Tensor, cuts: Mapping[str, int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    means = (pointer(mean), pointer(counts), *mean.shape)
    total = _C.mean_pairs(means, m2, torch.get_num_threads(), cuts)
    filled = (counts > 0).sum()
    return mean.new_tensor(total), filled * (filled - 1) // 2
