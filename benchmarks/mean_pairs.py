"""CDNV from class means, against ``torch.cdist`` and its C x C matrix.

The error is relative to the same sum by float64 products.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

import sslkernels as ssk
from sslkernels.numerics.means import around_their_mean, squared_distances
from sslkernels.report.speed import Case, Workload

_BLOCK = 512


def moments(c: int, d: int) -> ssk.ClassMoments:
    """Random class means with a common offset."""
    g = torch.Generator().manual_seed(0)
    state = {
        "counts": torch.full((c,), 100),
        "mean": torch.randn(c, d, generator=g, dtype=torch.float64).add_(2.0),
        "m2": 100 * d * torch.rand(c, generator=g, dtype=torch.float64),
    }
    return ssk.ClassMoments.empty(c, d).load_state_dict(state)


def cdist(means: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
    """fp32 distances, their C x C matrix, its mean off the diagonal."""
    c = len(means)
    ratios = (variances[:, None] + variances) / torch.cdist(means, means).square_().mul_(2)
    return ratios.fill_diagonal_(0).sum(dtype=torch.float64) / (c * (c - 1))


def _contenders(c: int) -> tuple[str, ...]:
    """Without C x C matrices of more than some GB."""
    return ("sslkernels", "torch.cdist") if c <= 20_000 else ("sslkernels",)


def _build(c: int, d: int) -> Case:
    m = moments(c, d)
    means, variances = m.means.float(), m.variances.float()

    @functools.cache
    def exact() -> float:
        x, total = around_their_mean(m._mean), 0.0
        for at in torch.arange(c).split(_BLOCK):
            both = m.variances[at, None] + m.variances
            ratios = both / (2 * squared_distances(x[at], x))
            ratios[torch.arange(len(at)), at] = 0
            total += float(ratios.sum())
        return total / (c * (c - 1))

    def error(result: Any) -> float:
        return abs(float(result) / exact() - 1)

    jobs = {"sslkernels": lambda: ssk.cdnv(m), "torch.cdist": lambda: cdist(means, variances)}
    return Case(
        contenders={name: jobs[name] for name in _contenders(c)},
        error=error,
        # Relative, of the mean: 2e-6 of a pair at most, and less of millions. cdist is all fp32.
        bounds={"sslkernels": 1e-6, "torch.cdist": 1e-3},
        amount=float(c) * c * d,
        unit="FLOP",
    )


WORKLOADS = [
    Workload(
        f"CDNV, C = {c:,}, D = {d}",
        _contenders(c),
        functools.partial(_build, c, d),
        rounds,
    )
    for c, d, rounds in [(1000, 2048, 9), (10_000, 2048, 3), (50_000, 512, 1), (9973, 1021, 3)]
]
