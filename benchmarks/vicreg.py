"""VICReg, forward and backward, against the official formula in eager and in compiled torch."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

import sslkernels as ssk
from benchmarks.registry import Case, Workload

SHAPES = [(64, 128), (256, 2048), (256, 8192), (1024, 8192), (2048, 2048), (2048, 8192)]
CONTENDERS = ("sslkernels", "official, eager", "official, torch.compile")


def _off_diagonal(m: torch.Tensor) -> torch.Tensor:
    """Everything off the diagonal of a square matrix, by a view and without an index."""
    n = m.shape[0]
    return m.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten()


def official_formula(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss as published (arXiv 2105.04906) and as its authors compute it, on one device."""
    n, d = x.shape
    invariance = F.mse_loss(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    std_x, std_y = torch.sqrt(x.var(0) + 1e-4), torch.sqrt(y.var(0) + 1e-4)
    variance = F.relu(1 - std_x).mean() / 2 + F.relu(1 - std_y).mean() / 2
    cov_x, cov_y = x.T @ x / (n - 1), y.T @ y / (n - 1)
    covariance = (_off_diagonal(cov_x).pow(2).sum() + _off_diagonal(cov_y).pow(2).sum()) / d
    return 25.0 * invariance + 25.0 * variance + covariance


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def step(loss: Loss, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Loss and both gradients, as a training step needs them."""
    value = loss(x, y)
    return (value.detach(), *torch.autograd.grad(value, (x, y)))


def views(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two correlated views of full rank, with features of unequal variance."""
    g = torch.Generator().manual_seed(0)
    base = torch.randn(n, d, generator=g) * torch.linspace(0.3, 1.5, d)
    x, y = (base + 0.3 * torch.randn(n, d, generator=g) for _ in range(2))
    return x.requires_grad_(), y.requires_grad_()


def _build(n: int, d: int) -> Case:
    x, y = views(n, d)

    @functools.cache
    def exact() -> tuple[torch.Tensor, ...]:
        x64, y64 = (t.detach().double().requires_grad_() for t in (x, y))
        with ssk.use_backend("torch"):
            return step(ssk.vicreg_loss, x64, y64)

    def error(result: tuple[torch.Tensor, ...]) -> float:
        return max(
            float((got.double() - want).norm() / want.norm())
            for got, want in zip(result, exact(), strict=True)
        )

    compiled = torch.compile(official_formula)
    jobs = (ssk.vicreg_loss, official_formula, compiled)
    side = min(n, d)
    return Case(
        contenders={
            name: functools.partial(step, job, x, y)
            for name, job in zip(CONTENDERS, jobs, strict=True)
        },
        error=error,
        # Two views: half of the symmetric Gram product forward, one full product backward.
        amount=2 * (side * n * d + 2 * side * n * d),
        unit="FLOP",
    )


WORKLOADS = [
    Workload(
        f"VICReg forward + backward, fp32 ({n}, {d})",
        CONTENDERS,
        functools.partial(_build, n, d),
        rounds=3 if n * d * min(n, d) > 2**31 else 30 if n * d < 2**16 else 7,
    )
    for n, d in SHAPES
]
