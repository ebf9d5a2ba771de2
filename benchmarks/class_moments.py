"""Class means and within-class scatter, against the plain read of the data and two-pass torch."""

from __future__ import annotations

import functools
from typing import Any

import torch

import sslkernels as ssk
from sslkernels.report.speed import NO_RESULT, Case, Workload

SHAPES = [
    (1_000_000, 512, 1000),
    (250_000, 2048, 1000),
    (2_000_000, 128, 100),
    (1_000_003, 131, 997),
]
CONTENDERS = ("sslkernels", "torch.sum (read limit)", "torch index_add_, two passes")
LABELINGS = 8
# Relative: stretches of fp32 sums around a shift, as good as fp32 itself; the usual torch code adds
# all rows of a class in fp32.
BOUND, RIVALS_BOUND = 2e-6, 1e-3
TOGETHER = ("sslkernels", "sslkernels, one labeling", "torch index_add_, two passes each")


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


def _exact(z: torch.Tensor, labels: torch.Tensor, c: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 in two passes, some rows at a time."""
    counts = torch.bincount(labels, minlength=c)
    means = torch.zeros(c, z.shape[1], dtype=torch.float64)
    scatter = torch.zeros(c, dtype=torch.float64)
    chunks = list(zip(z.split(32768), labels.split(32768), strict=True))
    for rows, to in chunks:
        means.index_add_(0, to, rows.double())
    means /= counts[:, None]
    for rows, to in chunks:
        scatter.index_add_(0, to, (rows.double() - means[to]).square().sum(1))
    return means, scatter


def _error(result: Any, want: tuple[torch.Tensor, torch.Tensor]) -> float:
    """The larger of the relative errors of all means, and of the scatter of any class."""
    ours = isinstance(result, ssk.ClassMoments)
    means, scatter = (result.means, result.m2) if ours else result
    return max(
        float((means.double() - want[0]).norm() / want[0].norm()),
        float((scatter.double() / want[1] - 1).abs().max()),
    )


def _build(n: int, d: int, c: int) -> Case:
    z, labels = embeddings(n, d, c)
    exact = functools.cache(lambda: _exact(z, labels, c))

    def error(result: Any) -> float:
        if isinstance(result, torch.Tensor):
            return float("nan")  # the read limit computes nothing to compare
        return _error(result, exact())

    jobs = (
        lambda: ssk.class_moments(z, labels, c),
        z.sum,
        lambda: two_passes(z, labels, c),
    )
    bounds = dict(zip(CONTENDERS, (BOUND, NO_RESULT, RIVALS_BOUND), strict=True))
    return Case(dict(zip(CONTENDERS, jobs, strict=True)), error, bounds, z.nbytes, "B")


def _build_together(n: int, d: int, c: int) -> Case:
    """Labelings that do not follow from each other; errors are those of the first and the last."""
    z, first = embeddings(n, d, c)
    g = torch.Generator().manual_seed(1)
    labels = torch.stack([first, *torch.randint(c, (LABELINGS - 1, n), generator=g)])
    exact = functools.cache(lambda k: _exact(z, labels[k], c))

    def error(result: Any) -> float:
        if isinstance(result, ssk.ClassMoments):
            return _error(result, exact(0))
        return max(_error(result[k], exact(k)) for k in (0, LABELINGS - 1))

    jobs = (
        lambda: ssk.class_moments(z, labels, [c] * LABELINGS),
        lambda: ssk.class_moments(z, first, c),
        lambda: [two_passes(z, row, c) for row in labels],
    )
    bounds = dict(zip(TOGETHER, (BOUND, BOUND, RIVALS_BOUND), strict=True))
    return Case(dict(zip(TOGETHER, jobs, strict=True)), error, bounds, z.nbytes, "B")


WORKLOADS = [
    *(
        Workload(
            f"class moments, fp32 {n:,} x {d}, C = {c}",
            CONTENDERS,
            functools.partial(_build, n, d, c),
        )
        for n, d, c in SHAPES
    ),
    Workload(
        f"class moments of {LABELINGS} labelings, fp32 1,000,000 x 512, C = 1000 each",
        TOGETHER,
        functools.partial(_build_together, 1_000_000, 512, 1000),
        rounds=3,
    ),
]
