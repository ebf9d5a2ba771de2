"""What a case of a loss is made of, and its comparison with the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from tests.soak.bounds import hold, rounded_operands, rounding
from tests.soak.draws import Rows


class Number(NamedTuple):
    """A result and its magnitude, of the same shape: see the package."""

    value: torch.Tensor
    magnitude: torch.Tensor

    def __mul__(self, factor: float) -> Number:  # type: ignore[override]
        return Number(self.value * factor, self.magnitude * abs(factor))

    def __add__(self, other: Number) -> Number:  # type: ignore[override]
        return Number(self.value + other.value, self.magnitude + other.magnitude)


Ours = Callable[..., Sequence[torch.Tensor]]


class Problem(NamedTuple):
    """A loss, its views, and the truth.

    Attributes:
        facts: what was drawn.
        ours: from a group, or None, to the function of the views that gives the terms.
        views: whole batches.
        weights: of the terms in the sum whose gradient is taken.
        terms, gradients: one per term, one per view.
        length: of the longest sums of products.
        backend: the one that was asked for, if any.
        centered: whether the loss takes columns around their means.
    """

    facts: str
    ours: Callable[[str | None], Ours]
    views: Sequence[Rows]
    weights: Sequence[float]
    terms: Sequence[Number]
    gradients: Sequence[Number]
    length: int
    backend: str | None
    centered: bool = True


def compare(
    problem: Problem, *, group: str | None = None, own: slice = slice(None), ranks: int = 1
) -> None:
    """Terms, and the gradients of their weighted sum, against the truth; as one of ``ranks`` of a
    group with the rows ``own``, whose gradients are ``ranks`` times those of the whole batch.

    The sum is scaled so that the largest gradient is 1: half precision would underflow. Columns
    that a loss centers are known to float64's rounding of their means, no better.
    """
    views, facts = problem.views, problem.facts
    dtype = views[0].dtype
    share = rounding(dtype, problem.length) + rounded_operands(dtype, problem.backend)
    if problem.centered:
        shifts = [_shift(view.exact.reshape(len(view.exact), -1)) for view in views]
        share += rounding(torch.float64, len(views[0].exact)) * max(shifts)
    leaves = [view.given[own].detach().requires_grad_() for view in views]
    found = problem.ours(group)(*leaves)
    for k, (got, want) in enumerate(zip(found, problem.terms, strict=True)):
        hold(f"{facts}: term {k}", got, want.value, share * want.magnitude)
    largest = ranks * max(float(g.value.abs().max()) for g in problem.gradients)
    scale = 1 / largest if 1e-30 < largest < 1e30 else 1.0
    torch.stack(
        [w * scale * t for w, t in zip(problem.weights, found, strict=True)]
    ).sum().backward()
    info = torch.finfo(dtype)
    for k, (leaf, want) in enumerate(zip(leaves, problem.gradients, strict=True)):
        value = want.value[own] * scale * ranks
        allowed = share * want.magnitude[own] * scale * ranks + info.eps * value.abs()
        allowed += info.tiny * info.eps if dtype != torch.float64 else 0.0
        hold(f"{facts}: gradient {k}", leaf.grad, value, allowed)


def centered(z: torch.Tensor) -> torch.Tensor:
    """Around the column means, to the last digit: what rounding left of them is taken off too."""
    z = z - z.mean(0)
    return z - z.mean(0)


def _shift(z: torch.Tensor) -> float:
    """The length of the common offset, in standard deviations."""
    return float((z.mean(0) / (z.var(0, correction=0) + 1e-5).sqrt()).norm())
