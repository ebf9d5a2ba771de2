"""SIGReg of the global batch: its sums of cosines and sines, added up over ranks.

Every rank draws the same slices by itself (``sslkernels/passes/sigreg.py``), so that one sum over
ranks of slices x knots pairs is all that is sent; what the loss makes of the sums is the same
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sslkernels.distributed.batch import Batch, add_up, agree, outside_graphs
from sslkernels.passes.sigreg import SIGRegSettings, sigreg


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is world_size times the incoming one, by convention."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, batch: Batch) -> Tensor:
        ctx.world = batch.world
        return add_up(batch, own.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.world, None


@outside_graphs
def total_sums(
    z: Tensor,
    step: int | Tensor,
    settings: SIGRegSettings,
    others: tuple[Any, ...],
    group: Any,
    check: Callable[[], None],
) -> tuple[Tensor, int]:
    """The operator's sums over all ranks' rows, and how many rows these are.

    Ranks must agree on settings and others, and on the step as far as it is on the CPU: a step on a
    GPU is not waited for.
    """
    known: Any = step
    if isinstance(step, Tensor):
        known = int(step) if step.device.type == "cpu" and step.numel() == 1 else None
    batch = agree(group, "SIGReg", check, (z,), (*settings, *others, known), min_rows=1)
    if not isinstance(step, Tensor):
        step = torch.tensor(step, dtype=torch.int64, device="cpu")
    return _Sum.apply(sigreg(z, step, *settings), batch), batch.total
