"""Class means and within-class scatter, against the plain read of the data and two-pass torch."""

from __future__ import annotations

import functools
from typing import Any

import torch

import sslkernels as ssk
from benchmarks.registry import Case, Workload

SHAPES = [(1_000_000, 512, 1000), (250_000, 2048, 1000), (2_000_000, 128, 100)]
CONTENDERS = ("sslkernels", "torch.sum (read limit)", "torch index_add_, two passes")


def two_passes(z: torch.Tensor, labels: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, ...]:
    """Means by ``index_add_``, then the scatter around them: the usual torch code."""
    counts = torch.bincount(labels, minlength=num_classes)
    means = torch.zeros(num_classes, z.shape[1]).index_add_(0, labels, z) / counts[:, None]
    scatter = torch.zeros(num_classes)
    for rows, to in zip(z.split(65536), labels.split(65536), strict=True):  # not N x D at once
        scatter.index_add_(0, to, (rows - means[to]).square().sum(1))
    return means, scatter


def embeddings(n: int, d: int, c: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clustered rows in random label order, offset from the origin as real features are."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(c, (n,), generator=g)
    z = torch.randn(n, d, generator=g)
    z += torch.randn(c, d, generator=g)[labels].add_(2.0)
    return z, labels


def _build(n: int, d: int, c: int) -> Case:
    z, labels = embeddings(n, d, c)

    @functools.cache
    def exact() -> tuple[torch.Tensor, torch.Tensor]:
        """Float64 in two passes, some rows at a time."""
        counts = torch.bincount(labels, minlength=c)
        means = torch.zeros(c, d, dtype=torch.float64)
        scatter = torch.zeros(c, dtype=torch.float64)
        chunks = list(zip(z.split(32768), labels.split(32768), strict=True))
        for rows, to in chunks:
            means.index_add_(0, to, rows.double())
        means /= counts[:, None]
        for rows, to in chunks:
            scatter.index_add_(0, to, (rows.double() - means[to]).square().sum(1))
        return means, scatter

    def error(result: Any) -> float:
        if isinstance(result, torch.Tensor):
            return float("nan")  # the read limit computes nothing to compare
        means, scatter = (
            (result.means, result.m2) if isinstance(result, ssk.ClassMoments) else result
        )
        want_means, want_scatter = exact()
        return max(
            float((means.double() - want_means).norm() / want_means.norm()),
            float((scatter.double() / want_scatter - 1).abs().max()),
        )

    return Case(
        contenders=dict(
            zip(
                CONTENDERS,
                (
                    lambda: ssk.class_moments(z, labels, c),
                    z.sum,
                    lambda: two_passes(z, labels, c),
                ),
                strict=True,
            )
        ),
        error=error,
        amount=z.nbytes,
        unit="B",
    )


WORKLOADS = [
    Workload(
        f"class moments, fp32 {n:,} x {d}, C = {c}",
        CONTENDERS,
        functools.partial(_build, n, d, c),
    )
    for n, d, c in SHAPES
]
