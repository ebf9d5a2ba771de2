"""NT-Xent of the global batch: the passes of ``sslkernels/passes/nt_xent.py``, each rank its rows.

One gather brings all ranks' rows, and forward takes the logits of the rank's own rows by all; a
second gather brings every row's lse, with which the gradient of own rows is whole and nothing has
to be sent back to the ranks whose rows were used. Forward leaves behind what the backward pass
needs, the gradient of the loss alone, G, n x D per view. With A the gradient of the alignment,
which is of own rows only,

    dL/dz = (g_0 + g_2) G + (g_1 - g_2) A,    A = -(u_p - u (u . u_p)) / (N temperature norm).

The loss's gradient is not the difference of two that are larger: it keeps its digits where it is
small. A temperature that is learned gets world_size times the part of its gradient that comes from
the rank's own rows: the average over ranks is the whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.distributed.batch import Batch, all_rows, once_differentiable, outside_graphs
from sslkernels.numerics.unit_rows import MIN_NORM
from sslkernels.numerics.views import result_dtype
from sslkernels.passes.nt_xent import by_temperature
from sslkernels.passes.selection import select


def _alignment(x: Tensor, y: Tensor) -> list[Tensor]:
    """N temperature A of both views, in the result dtype."""
    dtype = result_dtype(x.dtype)
    norms = [torch.linalg.vector_norm(z, dim=1, keepdim=True, dtype=torch.float64) for z in (x, y)]
    floors = [norm.clamp_min(MIN_NORM) for norm in norms]
    u, v = ((z / floor).to(dtype) for z, floor in zip((x, y), floors, strict=True))
    cosine = (u * v).sum(1, keepdim=True, dtype=torch.float64)
    inside = [torch.where(norm < MIN_NORM, 0.0, cosine) for norm in norms]
    on_x, on_y = (inside[0] * u - v) / floors[0], (inside[1] * v - u) / floors[1]
    return [on_x.to(dtype), on_y.to(dtype)]


class _NTXent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, batch: Batch, learned: float | Tensor) -> Tensor:
        temperature = learned.item() if isinstance(learned, Tensor) else learned
        own = sum(batch.rows[: batch.rank]), x.shape[0]
        need_x, need_y, _, need_temperature = ctx.needs_input_grad
        views = all_rows(batch, torch.stack((x, y), 1)).unbind(1)
        backend = select("nt_xent", views[0])
        terms, own_rows = backend.nt_xent_forward(*views, temperature, own)
        by_sample = own_rows.unflatten(1, (2, -1)).permute(2, 0, 1).contiguous()
        lse, row_loss = rows = all_rows(batch, by_sample).permute(1, 2, 0).flatten(1)
        kept: tuple[Tensor | None, ...] = (None, None, None)
        if need_x or need_y or need_temperature:
            on_loss = torch.zeros_like(terms)
            on_loss[0] = 1
            kept = backend.nt_xent_backward(
                *(on_loss, *views, rows, temperature, need_x, need_y, need_temperature, own, True)
            )
        at_positive = (own_rows[0] - own_rows[1]).sum()
        ctx.save_for_backward(x, y, *kept, at_positive)
        ctx.batch, ctx.temperature = batch, temperature
        ctx.like = learned.detach() if isinstance(learned, Tensor) else None
        return torch.stack((row_loss, row_loss - lse, lse)).mean(1).to(terms.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, on_x, on_y, radial, at_positive = ctx.saved_tensors
        batch, scale = ctx.batch, ctx.batch.total * ctx.temperature
        loss, alignment, uniformity = (grad.double() * batch.world).unbind()
        on_loss, on_alignment = loss + uniformity, alignment - uniformity
        grads = [None if g is None else g * on_loss for g in (on_x, on_y)]
        # Zero times, for the loss alone: to see that, the host would wait for a GPU.
        with torch.autocast(x.device.type, enabled=False):
            parts = _alignment(x, y)
        for g, part in zip(grads, parts, strict=True):
            if g is not None:
                g.add_(part.mul_(on_alignment / scale))
        on_temperature = None
        if radial is not None:
            radial = radial * on_loss - at_positive / batch.total * on_alignment
            on_temperature = by_temperature(radial, ctx.temperature).to(ctx.like)
        return (*(None if g is None else g.to(x.dtype) for g in grads), None, on_temperature)


@outside_graphs
def nt_xent(x: Tensor, y: Tensor, batch: Batch, temperature: float | Tensor) -> Tensor:
    """[3]: loss, alignment, uniformity."""
    return _NTXent.apply(x, y, batch, temperature)
