"""What the benchmarks of losses share: a step is the loss and its gradients, held to float64's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch

from benchmarks.registry import Case
from sslkernels import use_backend

Loss = Callable[..., torch.Tensor]

# Relative errors of value and gradients in fp32. Ours add at most some hundred terms at a time:
# sqrt(512) roundings of 6e-8, times the 4 of a product of products. The published formulas add
# D^2 terms in one go, and cancel.
BOUND, RIVALS_BOUND = 6e-6, 1e-3


def step(loss: Loss, *views: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The loss and every view's gradient, as a training step needs them."""
    value = loss(*views)
    return (value.detach(), *torch.autograd.grad(value, views))


def two_views(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two correlated views of full rank, with features of unequal variance."""
    g = torch.Generator().manual_seed(0)
    base = torch.randn(n, d, generator=g) * torch.linspace(0.3, 1.5, d)
    x, y = (base + 0.3 * torch.randn(n, d, generator=g) for _ in range(2))
    return x.requires_grad_(), y.requires_grad_()


def loss_case(losses: Mapping[str, Loss], views: tuple[torch.Tensor, ...], amount: float) -> Case:
    """Steps of several forms of one loss, ours first, on the same views; ``amount`` in FLOP."""
    ours = next(iter(losses.values()))

    @functools.cache
    def exact() -> tuple[torch.Tensor, ...]:
        with use_backend("torch"):
            return step(ours, *(z.detach().double().requires_grad_() for z in views))

    def error(result: tuple[torch.Tensor, ...]) -> float:
        return max(
            float((got.double() - want).norm() / want.norm())
            for got, want in zip(result, exact(), strict=True)
        )

    return Case(
        contenders={name: functools.partial(step, loss, *views) for name, loss in losses.items()},
        error=error,
        bounds={name: RIVALS_BOUND if k else BOUND for k, name in enumerate(losses)},
        amount=amount,
        unit="FLOP",
    )
