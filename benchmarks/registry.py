"""What is measured: workloads, each with contenders that do the same job on the same data.

The first contender is ours; the others are what users run today. Every result is compared with a
float64 answer, and the error stands beside the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Case:
    """A workload with its data in memory.

    Attributes:
        contenders: name -> the job, ours first; each returns its result.
        error: the error of a result against float64, as the workload defines it.
        amount: floating-point operations or bytes that the job must do or read at least.
        unit: "FLOP" or "B".
    """

    contenders: dict[str, Callable[[], Any]]
    error: Callable[[Any], float]
    amount: float
    unit: str


@dataclass(frozen=True)
class Workload:
    """A named job; ``contenders`` lists the names that ``build().contenders`` will hold."""

    name: str
    contenders: tuple[str, ...]
    build: Callable[[], Case]
    rounds: int = 5
