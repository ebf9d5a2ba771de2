"""Sums over pairs of class means in C++: the method and its error bounds are in
``csrc/mean_pairs/mean_pairs.h``. Memory: 4 C D bytes. The bits do not depend on the number of
threads."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu._views import pointer


def cdnv_sum(
    mean: torch.Tensor,  # [C, D] float64, contiguous
    m2: torch.Tensor,  # [C] float64, contiguous
    counts: torch.Tensor,  # [C] int64, contiguous
    cuts: Mapping[str, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _sum(mean, pointer(m2), counts, cuts)


def cosine_gap_sum(
    mean: torch.Tensor,  # [C, D] float64, contiguous
    counts: torch.Tensor,  # [C] int64, contiguous
    cuts: Mapping[str, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _sum(mean, None, counts, cuts)


def _sum(
    mean: torch.Tensor, m2: int | None, counts: torch.Tensor, cuts: Mapping[str, int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    means = (pointer(mean), pointer(counts), *mean.shape)
    total = _C.mean_pairs(means, m2, torch.get_num_threads(), cuts)
    filled = (counts > 0).sum()
    return mean.new_tensor(total), filled * (filled - 1) // 2
