"""What a workload on the GPU is made of: see gpu.py, which runs and times them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

# Relative errors of a loss and its gradients that a speed may stand beside: a product of operands
# rounded to 8 or 11 bits, twice, and a gradient rounded to its dtype. The published formulas round
# every step to bf16; beyond the size of the result itself they compute nothing.
LOSS_BOUNDS = {torch.bfloat16: 1e-2, torch.float32: 2e-3}
FORMULAS_BOUND = 1.0


class Job(NamedTuple):
    """One contender on one workload. ``run`` takes one of the input sets of the workload."""

    workload: str
    contender: str  # the first of a workload is ours
    run: Callable[..., Any]
    inputs: list[tuple[Any, ...]]
    error: Callable[[Any], float]  # of a result on the first input set
    bound: float  # the largest error that a speed may stand beside; NO_RESULT without a result
    amount: float  # floating-point operations or bytes that the job cannot do without
    unit: str  # "FLOP" or "B"
    ceiling: str  # a key of ceilings()
    setting: str = "highest"  # torch.set_float32_matmul_precision


def l2_bytes() -> int:
    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def rotations(bytes_per_input: int) -> int:
    """How many input sets exceed twice the L2 cache; at least two."""
    return max(2, 1 + 2 * l2_bytes() // bytes_per_input)
