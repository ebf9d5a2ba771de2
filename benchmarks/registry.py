"""What is measured: workloads, each with contenders that do the same job on the same data.

The first contender is ours; the others are what users run today. Every result is compared with a
float64 answer, and the error stands beside the time. A contender whose error exceeds its bound,
which stands where the workload does, is shown as WRONG and without a speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Bound of a contender that computes nothing to compare, such as a plain read of the data.
NO_RESULT = math.inf


def is_wrong(error: float, bound: float) -> bool:
    """Whether the error is out of bounds; NaN is, unless no result is expected."""
    return bound != NO_RESULT and not error <= bound


@dataclass
class Case:
    """A workload with its data in memory.

    Attributes:
        contenders: name -> the job, ours first; each returns its result.
        error: the error of a result against float64, as the workload defines it.
        bounds: name -> the largest error that a speed may stand beside.
        amount: floating-point operations or bytes that the job must do or read at least.
        unit: "FLOP" or "B".
    """

    contenders: dict[str, Callable[[], Any]]
    error: Callable[[Any], float]
    bounds: Mapping[str, float]
    amount: float
    unit: str


@dataclass(frozen=True)
class Workload:
    """A named job; ``contenders`` lists the names that ``build().contenders`` will hold."""

    name: str
    contenders: tuple[str, ...]
    build: Callable[[], Case]
    rounds: int = 5
