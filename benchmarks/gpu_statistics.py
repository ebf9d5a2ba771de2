"""GPU workloads of the statistics: class moments, nearest centers, class projections,
moments of unit rows, sums over pairs of means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu_jobs import Job, rotations
from sslkernels.backends import torch as dense
from sslkernels.backends.triton.class_moments.update import class_moments_update
from sslkernels.backends.triton.class_projections.project import (
    class_projections_forward as class_projections,
)
from sslkernels.backends.triton.mean_pairs.pairs import cdnv_sum
from sslkernels.backends.triton.nearest_center.search import (
    nearest_center_forward as nearest_center,
)
from sslkernels.backends.triton.unit_moments.rows import unit_moments_forward as unit_moments

ROWS, DIM, CLASSES = 1_281_167, 2048, 1000  # ImageNet-1k through a ResNet-50


# Errors that a speed may stand beside. Class moments: fp32 sums of stretches around a shift, of
# data of unit size. Exact nearest centers and ranks are exact; others take another center where two
# are as near, for a share of the rows.
MOMENTS = 2e-6
NEAREST = {"sslkernels, exact": 0.0}
PROJECTIONS = {"sslkernels": 0.0, "sslkernels, ranks": 0.0, "torch, fp64": 0.0}
ANY_AS_NEAR = 0.15


def _embeddings(n: int, d: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """bf16 rows of unit spread around class means of 0.3 per coordinate, and their labels."""
    generator = torch.Generator("cuda").manual_seed(0)
    means = 0.3 * torch.randn(classes, d, generator=generator, device="cuda")
    labels = torch.randint(classes, (n,), generator=generator, device="cuda")
    z = torch.empty(n, d, device="cuda", dtype=torch.bfloat16)
    for rows, own in zip(z.split(1 << 16), labels.split(1 << 16), strict=True):
        noise = torch.randn(rows.shape, generator=generator, device="cuda")
        rows.copy_(means[own] + noise)
    return z, labels


def _empty(classes: list[int], d: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    def zeros(*size: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.zeros(size, dtype=dtype, device="cuda")

    return [(zeros(c, dtype=torch.int64), zeros(c, d), zeros(c)) for c in classes]


def _exact_moments(
    z: torch.Tensor, labels: torch.Tensor, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(means, M2) in float64, two passes by parts."""
    counts = torch.bincount(labels, minlength=classes).double()
    mean = torch.zeros(classes, z.shape[1], dtype=torch.float64, device=z.device)
    m2 = torch.zeros(classes, dtype=torch.float64, device=z.device)
    parts = list(zip(z.split(1 << 16), labels.split(1 << 16), strict=True))
    for rows, own in parts:
        mean.index_add_(0, own, rows.double())
    mean /= counts.unsqueeze(1)
    for rows, own in parts:
        m2.index_add_(0, own, (rows.double() - mean[own]).square().sum(1))
    return mean, m2


def _two_pass(z: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, ...]:
    """What one writes in torch: index_add_ for the sums, again for the squares."""
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    mean = torch.zeros(classes, z.shape[1], device=z.device)
    m2 = torch.zeros(classes, device=z.device)
    parts = list(zip(z.split(1 << 16), labels.split(1 << 16), strict=True))
    for rows, own in parts:
        mean.index_add_(0, own, rows.float())
    mean /= counts.unsqueeze(1)
    for rows, own in parts:
        m2.index_add_(0, own, (rows.float() - mean[own]).square().sum(1))
    return mean, m2


def class_moments() -> Iterator[list[Job]]:
    """One labeling, and three with one read, against the memory limit and two passes of torch."""
    z, labels = _embeddings(ROWS, DIM, CLASSES)
    mean, m2 = _exact_moments(z, labels, CLASSES)

    def error(found: Any) -> float:
        return max(
            float((found[0].double() - mean).abs().max()),
            float(((found[1].double() - m2) / m2).abs().max()),
        )

    def ours(counts: list[int]) -> Callable[..., Any]:
        def run(z: torch.Tensor, labels: torch.Tensor) -> Any:
            states = _empty(counts, DIM)
            class_moments_update(z, labels, states, -100)
            return states[0][1:]

        return run

    def torch_run(z: torch.Tensor, labels: torch.Tensor) -> Any:
        return _two_pass(z, labels[0], CLASSES)

    name = f"class moments bf16 ({ROWS}, {DIM}), C = {CLASSES}"
    one = [(z, labels.unsqueeze(0))] * 2  # 5 GB: beyond any cache
    yield [
        Job(name, "sslkernels", ours([CLASSES]), one, error, MOMENTS, z.nbytes, "B", "copy B/s"),
        Job(name, "torch, two passes", torch_run, one, error, 1e-3, z.nbytes, "B", "copy B/s"),
    ]
    shuffled = labels[torch.randperm(ROWS, device="cuda")]
    three = [(z, torch.stack([labels, labels // 10, shuffled]))] * 2
    run = ours([CLASSES, CLASSES // 10, CLASSES])
    name = f"class moments bf16 ({ROWS}, {DIM}), three labelings"
    yield [Job(name, "sslkernels", run, three, error, MOMENTS, z.nbytes, "B", "copy B/s")]


def nearest() -> Iterator[list[Job]]:
    """Exact nearest centers against the matrix product alone, and against cdist and argmin."""
    z, labels = _embeddings(ROWS, DIM, CLASSES)
    shuffled = labels[torch.randperm(ROWS, device="cuda")]
    sample = slice(0, 4096)
    for name, own in (("classes", labels), ("random targets", shuffled)):
        centers = _exact_moments(z, own, CLASSES)[0]
        exact = torch.cdist(z[sample].double(), centers).argmin(1)
        half = centers.to(torch.bfloat16).T.contiguous()

        def error(found: torch.Tensor, exact: torch.Tensor = exact) -> float:
            return float((found[sample] != exact).double().mean())

        def product(z: torch.Tensor, centers: torch.Tensor, half: torch.Tensor = half) -> Any:
            scores = [(part @ half)[sample] for part in z.split(1 << 17)]
            return scores[0].argmax(1)  # of the sample alone: the product is what is timed

        def distance(z: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
            c = centers.float()
            return torch.cat([torch.cdist(p.float(), c).argmin(1) for p in z.split(1 << 17)])

        contenders: dict[str, Callable[..., Any]] = {
            "sslkernels, exact": lambda z, c: nearest_center(z, c, True),
            "sslkernels, fast": lambda z, c: nearest_center(z, c, False),
            "bf16 product alone": product,
            "cdist and argmin": distance,
        }
        title = f"nearest center bf16 ({ROWS}, {DIM}), C = {CLASSES}, {name}"
        inputs, work = [(z, centers)] * 2, 2 * ROWS * DIM * CLASSES
        ceiling = "bf16 product FLOP/s"
        yield [
            Job(title, contender, run, inputs, error, bound, work, "FLOP", ceiling)
            for contender, run in contenders.items()
            for bound in (NEAREST.get(contender, ANY_AS_NEAR),)
        ]


def _projected(z: torch.Tensor, own: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """What one writes in torch, in fp32: ranks and sums of squared projections, by parts."""
    mu = centers.float()
    v = mu - mu.mean(0)
    half = torch.cdist(v, v).square() / 2
    ranks, spread = [], torch.zeros(len(mu), device=z.device)
    for rows, y in zip(z.split(1 << 15), own.split(1 << 15), strict=True):
        p = (rows.float() - mu[y]) @ v.T
        along = p - p.gather(1, y[:, None])
        ranks.append((along > half[y]).sum(1))
        ratio = (along / (2 * half[y])).square_().scatter_(1, y[:, None], 0.0)
        spread.index_add_(0, y, ratio.sum(1))
    return torch.cat(ranks)


def projections() -> Iterator[list[Job]]:
    """Ranks, leave-one-out and directional sums against the same in fp32 and in float64."""
    z, labels = _embeddings(ROWS, DIM, CLASSES)
    shuffled = labels[torch.randperm(ROWS, device="cuda")]
    counts = torch.bincount(labels, minlength=CLASSES)
    sample = slice(0, 4096)
    for name, own in (("classes", labels), ("random targets", shuffled)):
        centers = _exact_moments(z, own, CLASSES)[0]
        distance = torch.cdist(z[sample].double(), centers)
        exact = (distance < distance.gather(1, own[sample, None])).sum(1)

        def error(found: torch.Tensor, exact: torch.Tensor = exact) -> float:
            return float((found[sample] != exact).double().mean())

        contenders: dict[str, Callable[..., Any]] = {
            "sslkernels": lambda z, y, c: class_projections(z, y, c, counts, True)[0],
            "sslkernels, ranks": lambda z, y, c: class_projections(z, y, c, None, False)[0],
            "torch, fp32": _projected,
            "torch, fp64": lambda z, y, c: dense.class_projections_forward(z, y, c, counts, True)[
                0
            ],
        }
        title = f"class projections bf16 ({ROWS}, {DIM}), C = {CLASSES}, {name}"
        inputs, work = [(z, own, centers)] * 2, 2 * ROWS * DIM * CLASSES
        yield [
            Job(title, contender, run, inputs, error, bound, work, "FLOP", "tf32 product FLOP/s")
            for contender, run in contenders.items()
            for bound in (PROJECTIONS.get(contender, ANY_AS_NEAR),)
        ]


def unit_moments_of_rows() -> Iterator[list[Job]]:
    """Mean and scatter of unit rows, against normalize and var by parts, in fp32."""
    z, _ = _embeddings(ROWS, DIM, CLASSES)
    exact = dense.unit_moments_forward(z)[1]

    def plain(z: torch.Tensor) -> torch.Tensor:
        (mean, m2), count = torch.zeros(2, DIM, device=z.device), 0
        for rows in z.split(1 << 16):
            var, own = torch.var_mean(torch.nn.functional.normalize(rows.float()), 0, correction=0)
            share = len(rows) / (count + len(rows))
            m2 = m2 + len(rows) * var + (own - mean).square() * (count * share)
            mean, count = mean + (own - mean) * share, count + len(rows)
        return m2

    def error(found: torch.Tensor) -> float:
        return float((found.double() / exact - 1).abs().max())

    title, inputs = f"moments of unit rows bf16 ({ROWS}, {DIM})", [(z,)] * 2
    yield [
        Job(title, label, run, inputs, error, bound, z.nbytes, "B", "copy B/s")
        for label, run, bound in (  # relative, of the scatter of any column
            ("sslkernels", lambda z: unit_moments(z)[1], 1e-5),
            ("normalize and var", plain, 1e-3),
            ("torch, fp64", lambda z: dense.unit_moments_forward(z)[1], 1e-12),
        )
    ]


def cdnv() -> Iterator[list[Job]]:
    """The CDNV sum over all pairs, against cdist in blocks (its whole matrix takes 10 GB)."""
    for c in (1000, 50_000, 9973):
        inputs = []
        for seed in range(min(4, rotations(8 * c * DIM))):
            generator = torch.Generator("cuda").manual_seed(seed)
            mean = torch.randn(c, DIM, generator=generator, device="cuda", dtype=torch.float64)
            m2 = torch.rand(c, generator=generator, device="cuda", dtype=torch.float64)
            inputs.append((mean, m2, torch.ones(c, dtype=torch.int64, device="cuda")))

        def plain(mean: torch.Tensor, m2: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
            total = mean.new_zeros(())
            var, mu = (m2 / counts).float(), mean.float()
            for start in range(0, len(mu), 4096):
                d2 = torch.cdist(mu[start : start + 4096], mu[start:]).square()
                ratio = (var[start : start + 4096, None] + var[start:]) / (2 * d2)
                total += ratio.triu(1).sum(dtype=torch.float64)
            return total

        def exact_sum(mean: torch.Tensor, m2: torch.Tensor, counts: torch.Tensor) -> float:
            total, norm = 0.0, mean.square().sum(1)
            for start in range(0, len(mean), 2048):
                rows = slice(start, start + 2048)
                d2 = norm[rows, None] + norm[start:] - 2 * mean[rows] @ mean[start:].T
                total += float(((m2[rows, None] + m2[start:]) / (2 * d2)).triu(1).sum())
            return total

        exact = exact_sum(*inputs[0])

        def error(found: torch.Tensor, exact: float = exact) -> float:
            return abs(float(found) / exact - 1)

        name, work = f"CDNV sum fp64 means ({c}, {DIM})", c * c * DIM
        yield [
            Job(name, label, run, inputs, error, bound, work, "FLOP", "tf32 product FLOP/s")
            for label, run, bound in (
                ("sslkernels", lambda *a: cdnv_sum(*a)[0], 1e-6),
                ("cdist", plain, 1e-3),
            )
        ]


WORKLOADS = (class_moments, nearest, projections, unit_moments_of_rows, cdnv)
