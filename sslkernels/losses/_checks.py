"""Checks shared by the losses: each error names the argument, what it got and what
it takes."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sslkernels._checks import embeddings


def view(z: Any, name: str, min_rows: int) -> None:
    if not isinstance(z, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, got {type(z).__name__}")
    embeddings(z, name)
    if z.shape[0] < min_rows:
        rows = "one row" if min_rows == 1 else f"{min_rows} rows"
        raise ValueError(f"{name}: needs at least {rows}, got shape {list(z.shape)}")


def pair(
    x: Any,
    y: Any,
    min_rows: int,
    view: Callable[[Any, str, int], None] = view,
    names: tuple[str, str] = ("x", "y"),
) -> None:
    """Two views of one shape, dtype and device; ``view`` checks the first."""
    first, second = names
    view(x, first, min_rows)
    if not isinstance(y, Tensor):
        raise TypeError(f"{second}: expected a torch tensor, got {type(y).__name__}")
    wanted = f"{second}: expected {first}'s"
    if y.dtype != x.dtype:
        raise TypeError(f"{wanted} dtype {str(x.dtype)[6:]}, got {str(y.dtype)[6:]}")
    if y.shape != x.shape:
        raise ValueError(f"{wanted} shape {list(x.shape)}, got {list(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"{wanted} device {x.device}, got {y.device}")


def number(value: Any, name: str, least: float = -math.inf) -> float:
    """A finite real number, no smaller than ``least``."""
    if type(value) is float and least <= value < math.inf and value != -math.inf:
        return value  # what nearly all calls give
    if isinstance(value, Tensor):
        raise TypeError(
            f"{name}: expected a number, got {type(value).__name__}: no gradient would flow to it"
        )
    _check_real(value, name)
    # Comparisons only: math.isfinite refuses the numbers that change in a compiled graph.
    if not -math.inf < value < math.inf or value < least:
        wanted = "a finite number" + (f" of at least {least:g}" if least > -math.inf else "")
        raise ValueError(f"{name}: expected {wanted}, got {value}")
    return float(value)


def weight(value: Any, name: str, least: float = -math.inf) -> float | Tensor:
    """A finite real number, or a tensor of one.

    Values of tensors are not looked at, nor are numbers in a compiled graph: an operator whose
    kernel needs a range checks it when it runs.
    """
    if not isinstance(value, Tensor):
        if not torch.compiler.is_compiling():
            return number(value, name, least)
        _check_real(value, name)
        return value
    if value.dtype.is_complex or value.dtype == torch.bool:
        raise TypeError(f"{name}: expected a number or a real tensor, got {str(value.dtype)[6:]}")
    if value.numel() != 1:
        raise ValueError(f"{name}: expected a tensor of one number, got shape {list(value.shape)}")
    return value


def _check_real(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")


def agreed(option: Any) -> Any:
    """An option as ranks compare it: a tensor's value is its own business."""
    return "a tensor" if isinstance(option, Tensor) else option


def times(weight: float | Tensor, term: Tensor) -> Tensor:
    """A weighted term, in the term's dtype.

    Losses weigh their terms by this where a weight is a tensor, whose gradient torch then knows,
    and in a compiled graph, where a number may change and an operator's argument may not.
    """
    return term * (weight.reshape(()).to(term.dtype) if isinstance(weight, Tensor) else weight)
