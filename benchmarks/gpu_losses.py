"""GPU workloads of Barlow Twins, NT-Xent and SIGReg, against their published formulas."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

import sslkernels as ssk
from benchmarks.barlow_twins import published_formula
from benchmarks.gpu_jobs import FORMULAS_BOUND, LOSS_BOUNDS, Job, rotations
from benchmarks.nt_xent import TEMPERATURE
from benchmarks.sigreg import KNOTS, TARGET, WEIGHTS, T
from sslkernels.reference.sigreg import slices
from sslkernels.report.speed import step


def _unfused(loss: Callable[..., torch.Tensor]) -> Callable[..., tuple[torch.Tensor, ...]]:
    def run(*views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with ssk.use_backend("torch"):
            return step(loss, *views)

    return run


def _jobs(
    name: str,
    loss: Callable[..., torch.Tensor],
    formula: Callable[..., torch.Tensor],
    shape: tuple[int, int],
    views: int,
    dtype: torch.dtype,
    operations: float,
) -> list[Job]:
    generator = torch.Generator("cuda").manual_seed(0)
    inputs = []
    for _ in range(rotations(views * shape[0] * shape[1] * dtype.itemsize)):
        x = torch.randn(shape, generator=generator, device="cuda")
        both = (x, x + 0.3 * torch.randn(shape, generator=generator, device="cuda"))
        inputs.append(tuple(z.to(dtype).requires_grad_() for z in both[:views]))
    exact = _unfused(loss)(*(z.detach().double().requires_grad_() for z in inputs[0]))

    def error(found: Any) -> float:
        return max(
            float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)
        )

    contenders: dict[str, Callable[..., Any]] = {
        "sslkernels": functools.partial(step, loss),
        "torch backend (unfused)": _unfused(loss),
        "formula, eager": functools.partial(step, formula),
        "formula, torch.compile": functools.partial(step, torch.compile(formula, dynamic=False)),
    }
    kind = "bf16" if dtype == torch.bfloat16 else "tf32"
    name = f"{name} forward+backward {kind} {shape}"
    ceiling = f"{kind} product FLOP/s"
    return [
        Job(name, contender, run, inputs, error, bound, operations, "FLOP", ceiling, "high")
        for contender, run in contenders.items()
        for bound in (FORMULAS_BOUND if "formula" in contender else LOSS_BOUNDS[dtype],)
    ]


DTYPES = (torch.bfloat16, torch.float32)


def barlow_twins() -> Iterator[list[Job]]:
    for (n, d), dtype in itertools.product(((256, 8192), (2048, 2048), (257, 5003)), DTYPES):
        # Two symmetric products, or one whole one, and a product for each view's gradient.
        operations = 6 * min(n, d) * n * d
        loss = ssk.barlow_twins_loss
        yield _jobs("Barlow Twins", loss, published_formula, (n, d), 2, dtype, operations)


def nt_xent_formula(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    u = torch.nn.functional.normalize(torch.cat((x, y)), dim=1)
    logits = (u @ u.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    n = len(x)
    return torch.nn.functional.cross_entropy(logits, torch.arange(2 * n, device=x.device).roll(n))


def nt_xent() -> Iterator[list[Job]]:
    loss = functools.partial(ssk.nt_xent_loss, temperature=TEMPERATURE)
    for (n, d), dtype in itertools.product(((4096, 128), (4096, 2048), (1009, 131)), DTYPES):
        operations = 2 * (2 * n) ** 2 * d * (0.5 + 0.5 + 1)  # two symmetric products and one whole
        yield _jobs("NT-Xent", loss, nt_xent_formula, (n, d), 2, dtype, operations)


def sigreg() -> Iterator[list[Job]]:
    """The formula is given its slices; ours are drawn."""
    n, d, m = 2048, 512, 1024
    directions = torch.from_numpy(slices(m, d)).T.float().cuda()
    t, target, weights = (v.cuda() for v in (T, TARGET, WEIGHTS))

    def formula(z: torch.Tensor) -> torch.Tensor:
        angle = (z @ directions.to(z.dtype)).float().unsqueeze(-1) * t
        gap = (angle.cos().mean(0) - target).square() + angle.sin().mean(0).square()
        return (gap @ weights).mean() * len(z)

    loss = functools.partial(ssk.sigreg_loss, num_slices=m, num_knots=KNOTS)
    operations = n * m * (3 * 2.0 * d + 2 * 6 * KNOTS)
    for dtype in DTYPES:
        yield _jobs("SIGReg", loss, formula, (n, d), 1, dtype, operations)


WORKLOADS: tuple[Callable[[], Iterator[list[Job]]], ...] = (barlow_twins, nt_xent, sigreg)
