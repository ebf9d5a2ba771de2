"""What a workload on the GPU is made of: see gpu.py, which runs and times them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Job(NamedTuple):
    """One contender on one workload. ``run`` takes one of the input sets of the workload."""

    workload: str
    contender: str  # the first of a workload is ours
    run: Callable[..., Any]
    inputs: list[tuple[Any, ...]]
    error: Callable[[Any], float]  # of a result on the first input set
    amount: float  # floating-point operations or bytes that the job cannot do without
    unit: str  # "FLOP" or "B"
    ceiling: str  # a key of ceilings()
    setting: str = "highest"  # torch.set_float32_matmul_precision


def l2_bytes() -> int:
    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def rotations(bytes_per_input: int) -> int:
    """How many input sets exceed twice the L2 cache; at least two."""
    return max(2, 1 + 2 * l2_bytes() // bytes_per_input)
