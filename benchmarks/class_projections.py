"""NCC scores and directional CDNV in one pass, against float32 products with the same epilogue.

The error is the largest of three: of the shares of rows whose own center is the nearest, with them
and without them in their class, and the relative error of the directional CDNV.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

import sslkernels as ssk
from benchmarks.class_moments import embeddings
from sslkernels.report.speed import NO_RESULT, Case, Workload

CONTENDERS = (
    "sslkernels, class_projections",
    "sslkernels, ncc_scores, then directional_cdnv",
    "torch fp32 products",
    "torch bf16 product alone",
)
Answer = Sequence[float]  # NCC accuracy, leave-one-out, directional CDNV


def one_pass(z: torch.Tensor, labels: torch.Tensor, m: ssk.ClassMoments) -> Answer:
    scores, line = ssk.class_projections(z, labels, m)
    return _answer(scores.top_k[0], scores.leave_one_out, line)


def two_passes(z: torch.Tensor, labels: torch.Tensor, m: ssk.ClassMoments) -> Answer:
    scores = ssk.ncc_scores(z, labels, m)
    return _answer(scores.top_k[0], scores.leave_one_out, ssk.directional_cdnv(z, labels, m))


def _answer(*values: torch.Tensor | None) -> Answer:
    return [float(value) for value in values if value is not None]


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
        ranks.append((margin > 0).sum(1) == 0)
        alones.append((margin > -gain[:, None]).sum(1) == 0)
        ratios = t.div_(between).scatter_(1, y[:, None], 0.0)
        spread.index_add_(0, y, ratios.square_().sum(1))
    shares = [torch.cat(found).double().mean() for found in (ranks, alones)]
    return _answer(*shares, (spread.double() / m.counts).mean() / (len(means) - 1))


def bf16_product(z: torch.Tensor, means: torch.Tensor) -> None:
    """The cheapest product of rows and centers there is, with nothing made of it."""
    centers = means.bfloat16().T
    for rows in z.split(8192):
        rows.bfloat16() @ centers


def _in_float64(z: torch.Tensor, labels: torch.Tensor, m: ssk.ClassMoments) -> Answer:
    with ssk.use_backend("torch"):
        return one_pass(z, labels, m)


def _build(n: int, d: int, c: int) -> Case:
    z, labels = embeddings(n, d, c)
    m = ssk.class_moments(z, labels, c)
    assert isinstance(m, ssk.ClassMoments)
    in_float64 = functools.cache(lambda: _in_float64(z, labels, m))

    def error(result: Answer | None) -> float:
        if result is None:
            return float("nan")
        nearest, alone, line = (abs(a - b) for a, b in zip(result, in_float64(), strict=True))
        return max(nearest, alone, line / in_float64()[-1])

    jobs = (
        lambda: one_pass(z, labels, m),
        lambda: two_passes(z, labels, m),
        lambda: torch_products(z, labels, m),
        lambda: bf16_product(z, m.means),
    )
    return Case(dict(zip(CONTENDERS, jobs, strict=True)), error, BOUNDS, 2.0 * n * d * c, "FLOP")


# NCC is exact; directional CDNV is good to 1e-6 (docs/design.md).
BOUNDS = dict(zip(CONTENDERS, (1e-6, 1e-6, 1e-3, NO_RESULT), strict=True))

WORKLOADS = [
    Workload(
        f"NCC scores and directional CDNV, fp32 {n:,} x {d}, C = {c}",
        CONTENDERS,
        functools.partial(_build, n, d, c),
        rounds,
    )
    for n, d, c, rounds in [(100_000, 2048, 1000, 3), (20_000, 512, 10, 20), (20_011, 509, 101, 5)]
]
