"""Barlow Twins, forward and backward, against the formula that its authors and lightly compute."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from benchmarks.registry import Case, Workload
from benchmarks.vicreg import step, views
from sslkernels import use_backend
from sslkernels.losses import barlow_twins_loss

SHAPES = [(64, 128), (256, 8192), (2048, 2048)]
CONTENDERS = ("sslkernels", "published formula, eager", "published formula, torch.compile")


def published_formula(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Batch normalization, the whole D x D matrix, and its two parts (arXiv 2103.03230)."""
    a, b = (F.batch_norm(z, None, None, training=True) for z in (x, y))
    c = a.T @ b / len(x)
    d = c.shape[0]
    on_diagonal = (c.diagonal() - 1).square().sum()
    off_diagonal = c.flatten()[:-1].view(d - 1, d + 1)[:, 1:].square().sum()
    return on_diagonal + 0.0051 * off_diagonal


def _build(n: int, d: int) -> Case:
    x, y = views(n, d)

    @functools.cache
    def exact() -> tuple[torch.Tensor, ...]:
        x64, y64 = (t.detach().double().requires_grad_() for t in (x, y))
        with use_backend("torch"):
            return step(barlow_twins_loss, x64, y64)

    def error(result: tuple[torch.Tensor, ...]) -> float:
        return max(
            float((got.double() - want).norm() / want.norm())
            for got, want in zip(result, exact(), strict=True)
        )

    jobs = (barlow_twins_loss, published_formula, torch.compile(published_formula))
    side = min(n, d)
    return Case(
        contenders={
            name: functools.partial(step, job, x, y)
            for name, job in zip(CONTENDERS, jobs, strict=True)
        },
        error=error,
        # Two half products forward and two products backward, on the cheaper side; square problems
        # have one whole product forward.
        amount=2 * (side * n * d + 2 * side * n * d),
        unit="FLOP",
    )


WORKLOADS = [
    Workload(
        f"Barlow Twins forward + backward, fp32 ({n}, {d})",
        CONTENDERS,
        functools.partial(_build, n, d),
        rounds=30 if n * d < 2**16 else 5,
    )
    for n, d in SHAPES
]
