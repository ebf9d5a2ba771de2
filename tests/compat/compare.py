"""One comparison for every drop-in: value and gradients, against the original in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.compare import assert_as_good

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SHAPES = [(2, 5), (16, 8), (33, 33), (12, 60)]
# A common offset is where a careless formula loses its digits.
INPUTS = [(torch.float64, 0.0), (torch.float64, 1e1), (torch.float32, 0.0), (torch.float32, 1e2)]

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_input = pytest.mark.parametrize(
    ("dtype", "offset"), INPUTS, ids=["fp64", "fp64-shifted", "fp32", "fp32-shifted"]
)


def views(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, offset: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two correlated views, columns of unequal spread."""
    g = torch.Generator().manual_seed(shape[0] * 1000 + shape[-1])
    spread = torch.exp(torch.randn(shape[-1], generator=g, dtype=torch.float64))
    x = offset + spread * torch.randn(shape, generator=g, dtype=torch.float64)
    y = x + 0.5 * spread * torch.randn(shape, generator=g, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def value_and_gradients(
    loss: Loss, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = (z.detach().clone().requires_grad_() for z in (x, y))
    value = loss(x, y)
    (0.7 * value).backward()
    assert x.grad is not None and y.grad is not None
    return value.detach(), x.grad, y.grad


def assert_same(
    ours: Loss,
    theirs: Loss,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    offset: float = 0.0,
    scale: float = 0.0,
) -> None:
    """Ours is within 16 times (64 in float64, where the exact values have errors of their own) what
    theirs loses in the same precision, or 16 roundings.

    ``offset``: the views' common one, which a loss that does not see it is freed from (without a
    rounding) for the exact values. ``scale``: as in :func:`tests.compare.assert_as_good`.
    """
    times = 64 if x.dtype == torch.float64 else 16
    got = value_and_gradients(ours, x, y)
    eager = value_and_gradients(theirs, x, y)
    exact = value_and_gradients(theirs, x.double() - offset, y.double() - offset)
    for g, e, w in zip(got, eager, exact, strict=True):
        assert g.dtype == e.dtype
        assert_as_good(g, e, w, times=times, scale=scale)


def squared_variances(*views: torch.Tensor) -> float:
    """What a wide VICReg's covariance term is a difference from."""
    return sum(float(z.double().var(0).square().sum()) / z.shape[-1] for z in views)
