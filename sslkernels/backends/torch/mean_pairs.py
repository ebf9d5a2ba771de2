"""Sums over pairs of class means, as CDNV and NC2 need them, in dense float64 operations."""

from __future__ import annotations

import torch

from sslkernels.numerics.means import PAIR_CHUNK, around_their_mean, squared_distances

_BLOCK = 1024  # rows of means at a time: 1024 x C distances in float64


def cdnv_sum(
    mean: torch.Tensor,  # float64 [C, D]
    m2: torch.Tensor,  # float64 [C]
    counts: torch.Tensor,  # int64 [C]
    *,
    block: int = _BLOCK,
    pair_chunk: int = PAIR_CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    filled = (counts > 0).nonzero().squeeze(1)
    variances = m2[filled] / counts[filled]
    means = around_their_mean(mean[filled])
    total = mean.new_zeros(())
    for start in range(0, len(means), block):
        rows = slice(start, start + block)
        both = variances[rows, None] + variances[start:]
        # The block begins on the diagonal: rows i against columns j >= i.
        d2 = squared_distances(means[rows], means[start:], pair_chunk)
        total += (both / d2).triu(1).sum()
    return total / 2, counts.new_tensor(len(means) * (len(means) - 1) // 2)


def cosine_gap_sum(
    mean: torch.Tensor,  # float64 [C, D]
    counts: torch.Tensor,  # int64 [C]
    *,
    block: int = _BLOCK,
) -> tuple[torch.Tensor, torch.Tensor]:
    means = mean[counts > 0]
    size = len(means)
    centered = means - means.mean(0)
    unit = centered / centered.norm(dim=1, keepdim=True)
    total = mean.new_zeros(())
    for start in range(0, size if size > 1 else 0, block):
        cosines = unit[start : start + block] @ unit[start:].T
        total += (cosines + 1 / (size - 1)).abs().triu(1).sum()
    return total, counts.new_tensor(size * (size - 1) // 2)
