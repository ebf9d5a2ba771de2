"""NCC scores and directional CDNV in one pass, against float32 products with the same epilogue.

The error is the larger of two: the share of rows whose rank or leave-one-out answer is not that of
float64 distances, and the relative error of the directional CDNV.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

import sslkernels as ssk
from benchmarks.class_moments import embeddings
from benchmarks.registry import NO_RESULT, Case, Workload
from sslkernels.backends.torch.class_projections import class_projections_forward as in_float64
from sslkernels.passes.selection import select

CONTENDERS = (
    "sslkernels, one pass",
    "sslkernels, ncc_scores and directional_cdnv",
    "torch fp32 products",
    "torch bf16 product alone",
)
Answer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def one_pass(z: torch.Tensor, labels: torch.Tensor, m: ssk.ClassMoments) -> Answer:
    pass_ = select("class_projections", z).class_projections_forward
    return pass_(z, labels, m.centers(), m.counts, True)


def torch_products(z: torch.Tensor, labels: torch.Tensor, m: ssk.ClassMoments) -> Answer:
    """Blocks of 4096 rows: ``t = (z - mu_y) . (mu_j - mu_y)`` and what it tells, in float32."""
    means = m.means
    v = means - means.mean(0)
    d2 = torch.cdist(v, v).square_()
    growth = (m.counts / (m.counts - 1)).square_() - 1
    ranks, alones, spread = [], [], torch.zeros(len(means))
    for rows, y in zip(z.split(4096), labels.split(4096), strict=True):
        r = rows - means[y]
        t = r @ v.T
        t -= t.gather(1, y[:, None])
        between = d2[y]
        margin = t - between / 2
        margin.scatter_(1, y[:, None], -torch.inf)
        gain = r.square().sum(1) * growth[y] / 2
        ranks.append((margin > 0).sum(1))
        alones.append((margin > -gain[:, None]).sum(1) == 0)
        ratios = t.div_(between).scatter_(1, y[:, None], 0.0)
        spread.index_add_(0, y, ratios.square_().sum(1))
    return torch.cat(ranks), torch.cat(alones), spread.double()


def bf16_product(z: torch.Tensor, means: torch.Tensor) -> None:
    """The cheapest product of rows and centers there is, with nothing made of it."""
    centers = means.bfloat16().T
    for rows in z.split(8192):
        rows.bfloat16() @ centers


def _build(n: int, d: int, c: int) -> Case:
    z, labels = embeddings(n, d, c)
    m = ssk.class_moments(z, labels, c)
    assert isinstance(m, ssk.ClassMoments)
    exact = functools.cache(lambda: in_float64(z, labels, m.centers(), m.counts, True))

    def error(result: Any) -> float:
        if result is None:
            return float("nan")
        (rank, alone, spread), (true_rank, true_alone, true_spread) = result, exact()
        wrong = ((rank != true_rank) | (alone != true_alone)).double().mean()
        line = (spread / m.counts).mean() / (true_spread / m.counts).mean() - 1
        return max(float(wrong), abs(float(line)))

    def both() -> None:
        ssk.ncc_scores(z, labels, m)
        ssk.directional_cdnv(z, labels, m)

    jobs = (
        lambda: one_pass(z, labels, m),
        both,
        lambda: torch_products(z, labels, m),
        lambda: bf16_product(z, m.means),
    )
    return Case(dict(zip(CONTENDERS, jobs, strict=True)), error, BOUNDS, 2.0 * n * d * c, "FLOP")


# Ranks are exact; directional CDNV is good to 1e-6 (docs/design.md).
BOUNDS = dict(zip(CONTENDERS, (1e-6, NO_RESULT, 1e-3, NO_RESULT), strict=True))

WORKLOADS = [
    Workload(
        f"NCC scores and directional CDNV, fp32 {n:,} x {d}, C = {c}",
        CONTENDERS,
        functools.partial(_build, n, d, c),
        rounds,
    )
    for n, d, c, rounds in [(100_000, 2048, 1000, 3), (20_000, 512, 10, 20), (20_011, 509, 101, 5)]
]
