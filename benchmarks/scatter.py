"""The scatter of rows around their class means in float64, against torch's float64 products.

The error is that of the upper triangle, relative to its largest element.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

import sslkernels as ssk
from benchmarks.class_moments import embeddings
from sslkernels.passes.selection import select
from sslkernels.report.speed import Case, Workload

CONTENDERS = (
    "sslkernels, the product alone",
    "sslkernels, PooledScatter with its class moments",
    "torch float64 product, blocks of rows",
)


def products(z: torch.Tensor, labels: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Centered in float64, 8192 rows at a time; the whole square, as a product comes."""
    out = means.new_zeros(z.shape[1], z.shape[1])
    for rows, to in zip(z.split(8192), labels.split(8192), strict=True):
        x = rows.double() - means[to]
        out.addmm_(x.T, x)
    return out


def _build(n: int, d: int, c: int) -> Case:
    z, labels = embeddings(n, d, c)
    means = ssk.class_means(z, labels, c).double()

    def scatter() -> torch.Tensor:
        upper = means.new_zeros(d, d)
        select("scatter_update", z).scatter_update(z, labels, means, upper)
        return upper

    def public() -> torch.Tensor:
        return ssk.PooledScatter.empty(c, d).update(z, labels).matrix

    exact = functools.cache(lambda: products(z, labels, means).triu())

    def error(result: Any) -> float:
        return float((result.triu() - exact()).abs().max() / exact().abs().max())

    jobs = (scatter, public, lambda: products(z, labels, means))
    # float64 on both sides: sums of 100,000 terms, each rounded once, at random
    bounds = dict.fromkeys(CONTENDERS, 1e-12)
    return Case(dict(zip(CONTENDERS, jobs, strict=True)), error, bounds, float(n) * d * d, "FLOP")


WORKLOADS = [
    Workload(
        f"within-class scatter, fp32 {n:,} x {d}, C = {c}",
        CONTENDERS,
        functools.partial(_build, n, d, c),
        3,
    )
    for n, d, c in [(100_000, 1024, 1000), (100_003, 509, 997)]
]
