r"""lightly's memory bank of negatives, and NT-Xent against it.

With u_i and v_i the unit rows of both views, b_j the M rows of the bank and all logits divided by
the temperature t, the loss is that of MoCo (He, Fan, Wu, Xie, Girshick, CVPR 2020, arXiv
1911.05722):

    loss = 1/N sum_i l_i,   l_i = log(1 + sum_j exp(s_ij - s_i))
    s_i = u_i.v_i / t,   s_ij = u_i.b_j / t
    dl_i/du_i = (sum_j p_ij b_j - q_i v_i) / t,   dl_i/dv_i = -q_i u_i / t
    dl_i/dt = (q_i s_i - sum_j p_ij s_ij) / t
    p_ij = exp(s_ij - s_i - l_i),   q_i = sum_j p_ij = 1 - exp(-l_i)

The bank has no gradient and is overwritten before the backward pass: sum_j p_ij b_j, an N x D
matrix, is made while the logits with some rows of the bank are at hand, shifted by the largest so
far, and nothing else is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.distributed.batch import Batch, all_rows, once_differentiable, outside_graphs
from sslkernels.numerics.views import result_dtype

_LOGITS = 2**20  # logits in memory at once: 4 MB, which caches hold
_LEAST = 256  # rows of the bank at a time, however many rows are in the batch


class MemoryBank(torch.nn.Module):
    """A queue of unit rows, with the buffers of ``lightly.models.modules.MemoryBankModule``.

    Args:
        size: (rows, dim); 0 or (0, dim) for none.
    """

    bank: Tensor
    bank_ptr: Tensor

    def __init__(self, size: int | Sequence[int]) -> None:
        super().__init__()
        self.size = (size,) if isinstance(size, int) else tuple(size)
        if any(s < 0 for s in self.size):
            raise ValueError(
                f"memory_bank_size: expected a number that is not negative, got {size}"
            )
        if self.size != (0,) and len(self.size) != 2:
            raise ValueError(f"memory_bank_size: expected (rows, dim), or 0 for none, got {size}")
        bank = torch.empty(0)
        if len(self.size) == 2:
            bank = F.normalize(torch.randn(self.size), dim=-1)
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("bank_ptr", torch.zeros(1, dtype=torch.int64), persistent=False)

    def check(self, z: Tensor, name: str) -> None:
        if z.shape[1] != self.size[1]:
            raise ValueError(
                f"{name}: expected {self.size[1]} columns to match the memory bank, "
                f"got shape {list(z.shape)}"
            )

    @torch.no_grad()
    def enqueue(self, rows: Tensor) -> None:
        """Overwrite the oldest rows; at the end of the bank, what does not fit is dropped."""
        first, size = int(self.bank_ptr), self.size[0]
        last = min(first + len(rows), size)
        self.bank[first:last] = rows[: last - first]
        self.bank_ptr[0] = last % size


@outside_graphs
def loss_with_memory_bank(
    out0: Tensor, out1: Tensor, memory: MemoryBank, batch: Batch, temperature: Tensor
) -> Tensor:
    """The loss of this process's rows, 0-d; all ranks' rows enter the bank if out0 has a gradient
    on any."""
    dtype = result_dtype(out0.dtype)
    with torch.autocast(out0.device.type, enabled=False):
        u, v = (F.normalize(z.to(dtype), dim=1) for z in (out0, out1))
        loss = _Contrast.apply(u, v, temperature, memory.bank.to(u))
    if u.requires_grad if batch.world == 1 else batch.need_x:
        memory.enqueue(all_rows(batch, v.detach()))
    return loss


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, temperature: Tensor, bank: Tensor) -> Tensor:
        needed = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        product = torch.zeros_like(u) if needed else u.new_empty(0)
        at_positive = (u * v).sum(1, dtype=torch.float64) / temperature
        scaled = u / temperature
        top, total = u.new_full((len(u), 1), -torch.inf), u.new_zeros(len(u), 1).double()
        for block in bank.split(max(_LEAST, _LOGITS // len(u))):
            power = scaled @ block.T
            higher = torch.maximum(top, power.amax(1, keepdim=True))
            power.sub_(higher).exp_()
            shrink = (top - higher).exp_()  # of what was summed below a lower top
            total.mul_(shrink).add_(power.sum(1, keepdim=True))
            if needed:
                product.mul_(shrink).addmm_(power, block)
            top = higher
        lse = (top.double() + total.log_()).squeeze(1)
        row_loss = torch.logaddexp(lse - at_positive, lse.new_zeros(()))
        if needed:
            share = (top.squeeze(1).double() - at_positive - row_loss).exp_()
            product.mul_(share.to(u.dtype).unsqueeze(1))
        missing = -torch.expm1(-row_loss)
        slope = u.new_zeros((), dtype=torch.float64)
        if ctx.needs_input_grad[2]:
            at_bank = (product * u).sum(1, dtype=torch.float64) / temperature
            slope = (missing * at_positive - at_bank).mean() / temperature
        ctx.save_for_backward(u, v, temperature, product, missing, slope)
        return row_loss.mean().to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, v, temperature, product, missing, slope = ctx.saved_tensors
        need_u, need_v, need_t, _ = ctx.needs_input_grad
        scale = (grad / (len(u) * temperature)).to(u.dtype)
        missing = missing.to(u.dtype).unsqueeze(1)
        on_u = product.addcmul(missing, v, value=-1).mul_(scale) if need_u else None
        on_v = (missing * u).mul_(-scale) if need_v else None
        return on_u, on_v, grad * slope if need_t else None, None
