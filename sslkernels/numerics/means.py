"""Pairs of class means in float64.

``||a - b||^2 = ||a||^2 + ||b||^2 - 2 a.b`` from means around their mean, by products. Where the
result is so small beside its terms that digits cancelled, it is taken again from the difference.
"""

from __future__ import annotations

import torch

_CANCELLED = 1e-4  # below this share of its terms, a float64 distance has lost 4 of its 16 digits
PAIR_CHUNK = 4096  # pairs taken again at a time: 4096 x D differences


def around_their_mean(means: torch.Tensor) -> torch.Tensor:
    """``means`` [C, D] less the mean of those that are finite."""
    finite = means.isfinite().all(1)
    return means - means[finite].mean(0) if finite.any() else means


def squared_distances(
    a: torch.Tensor, b: torch.Tensor, pair_chunk: int = PAIR_CHUNK
) -> torch.Tensor:
    """float64 [A, B] for float64 a [A, D] and b [B, D], both near the origin."""
    terms = a.square().sum(1, keepdim=True) + b.square().sum(1)
    d2 = torch.addmm(terms, a, b.T, alpha=-2.0)
    for pairs in (d2 < _CANCELLED * terms).nonzero().split(pair_chunk):
        i, j = pairs.unbind(1)
        d2[i, j] = (a[i] - b[j]).square().sum(1)
    return d2


def all_distances(means: torch.Tensor) -> torch.Tensor:
    """float64 [C, C], the squared distances between means [C, D]; NaN for those not finite."""
    v = around_their_mean(means)
    return squared_distances(v, v).fill_diagonal_(0.0)
