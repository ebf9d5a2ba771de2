"""The errors that arithmetic allows, and one comparison for all cases.

A sum of n products in floating point with unit roundoff u is off by at most ``n u`` times the sum
of their absolute values, in the worst case; by ``lambda sqrt(n) u`` of it with probability
``1 - 2 exp(-lambda^2 / 2)`` or more when roundings are independent of each other (Higham, Mary, "A
new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019). Every
kernel, and every vendor's product, adds short stretches of at most ``STRETCH`` terms, which longer
arithmetic or a few additions then add up: n is never larger.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch

STRETCH = 512
_LAMBDA = 6.0  # 3e-8 of the sums are off by more
_ROUNDINGS = 8  # of what goes into a sum and what comes out of it


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For the factorisations of truths: where LAPACK's threads are more than the free cores, they
    wait for each other, minutes for what takes a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Wrong(AssertionError):
    """A result is not what float64 says."""


def unit(dtype: torch.dtype) -> float:
    """u of the arithmetic for inputs of ``dtype``: float32 for half precision."""
    return 2.0**-53 if dtype == torch.float64 else 2.0**-24


def rounding(dtype: torch.dtype, terms: int = 1) -> float:
    """Error of a sum of ``terms`` products, as a share of the sum of their absolute values."""
    return (_ROUNDINGS + _LAMBDA * math.sqrt(min(terms, STRETCH))) * unit(dtype)


def rounded_operands(dtype: torch.dtype, backend: str | None) -> float:
    """What losses on a GPU lose beside: tensor cores multiply rows of half precision that were
    centered or normalized and rounded to it again; twice two of them, from input to gradient."""
    half = backend == "triton" and dtype in (torch.float16, torch.bfloat16)
    return 4 * torch.finfo(dtype).eps if half else 0.0


def hold(name: str, got: Any, want: Any, allowed: Any) -> None:
    """``|got - want| <= allowed``, element by element, and NaN or infinity at the same places.

    ``allowed`` is a number or broadcasts to the shape of ``want``; each sum of float64 in the truth
    itself is granted beside it.
    """
    got, want, allowed = (_float64(v) for v in (got, want, allowed))
    if got.shape != want.shape:
        raise Wrong(f"{name}: shape {list(got.shape)}, expected {list(want.shape)}")
    same = (got == want) | (got.isnan() & want.isnan())
    error = (got - want).abs()
    fine = same | (error <= allowed + 1e-14 * want.abs())
    if not fine.all():
        share = torch.where(fine, -1.0, (error / allowed).nan_to_num(torch.inf))
        at = int(share.argmax())
        place = [int(i) for i in torch.unravel_index(torch.tensor(at), want.shape)] or ""
        values = (float(t.expand_as(want).flatten()[at]) for t in (got, want, error, allowed))
        raise Wrong(
            "{}{}: {:.9g}, expected {:.9g}, off by {:.2g} of {:.2g}".format(name, place, *values)
            + f" ({int((~fine).sum())} of {want.numel()} are wrong)"
        )


def between(name: str, got: Any, low: Any, high: Any) -> None:
    """``low <= got <= high``: for shares of rows, some of which rounding may turn."""
    got, low, high = (_float64(v) for v in (got, low, high))
    bad = ~((got >= low - 1e-12) & (got <= high + 1e-12) | got.isnan() & low.isnan())
    if got.shape != low.shape or bad.any():
        raise Wrong(f"{name}: {got.tolist()}, expected from {low.tolist()} to {high.tolist()}")


def _float64(value: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach()
