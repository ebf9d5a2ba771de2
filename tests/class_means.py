"""Means, M2 and counts of classes, and the sums over their pairs in float64 NumPy."""

from __future__ import annotations

import numpy as np
import torch

Moments = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def moments(
    c: int, d: int, *, seed: int = 0, offset: float = 0.0, scale: float = 1.0, empty: float = 0.2
) -> Moments:
    """Means, M2 and counts of c classes, some of them empty; the first two are not."""
    g = torch.Generator().manual_seed(seed)
    mean = scale * (torch.randn(c, d, generator=g, dtype=torch.float64) + offset)
    counts = torch.randint(1, 9, (c,), generator=g)
    m2 = scale**2 * torch.rand(c, generator=g, dtype=torch.float64) * counts
    gone = torch.rand(c, generator=g) < empty
    gone[:2] = False
    return (
        mean.masked_fill(gone.unsqueeze(1), 0.0),
        m2.masked_fill(gone, 0.0),
        counts.masked_fill(gone, 0),
    )


def want_cdnv(mean: torch.Tensor, m2: torch.Tensor, counts: torch.Tensor) -> tuple[float, int]:
    filled = counts > 0
    mu, var = mean[filled].numpy(), (m2 / counts)[filled].numpy()
    total = 0.0
    with np.errstate(all="ignore"):
        for i in range(len(mu)):
            d2 = ((mu[i] - mu[i + 1 :]) ** 2).sum(1)
            total += ((var[i] + var[i + 1 :]) / (2 * d2)).sum()
    return float(total), len(mu) * (len(mu) - 1) // 2


def want_cosines(mean: torch.Tensor, counts: torch.Tensor) -> tuple[float, int]:
    m = mean[counts > 0].numpy()
    m = m - m.mean(0)
    u = m / np.linalg.norm(m, axis=1, keepdims=True)
    i, j = np.triu_indices(len(m), 1)
    return float(np.abs((u @ u.T)[i, j] + 1 / max(len(m) - 1, 1)).sum()), len(i)
