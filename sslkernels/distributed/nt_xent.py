"""NT-Xent of the global batch: the algebra of ``sslkernels/passes/nt_xent.py``, each rank its rows.

One gather brings all ranks' unit rows u, 2N x D. A rank forms the logits of its own 2n rows against
all, some rows at a time, and a second gather brings every row's lse. Then P and P^T are at hand for
its own rows, so that their whole gradient is,

    T_i = sum_{j != i, p(i)} (P_ij + P_ji) u_j,
    dL/du_i = ((g_0 + g_2) T_i + w_i u_p(i)) / (2N temperature),
    w_i = 2 (g_2 - g_1) - (g_0 + g_2) (1 - P_ip(i) + 1 - P_p(i)i),

and nothing has to be sent back to the ranks whose rows were used. The positive p(i) of a row is on
its own rank. Forward computes T where a gradient is wanted; T and the two 1 - P
of the rank's own 2n rows are kept. A temperature that is learned gets world_size times the part of
its gradient that comes from the rank's own rows: the average over ranks is the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sslkernels.distributed.batch import Batch, gather, once_differentiable, outside_graphs
from sslkernels.numerics.unit_rows import MIN_NORM
from sslkernels.numerics.views import result_dtype

_LOGITS = 2**22  # logits in memory at once


def _gather_rows(batch: Batch, own: Tensor) -> Tensor:
    """All ranks' rows of own [2n, ...]: rank after rank, in each the first view, the second."""
    n_max = max(batch.rows)
    if min(batch.rows) == n_max:
        return gather(batch, own).flatten(0, 1)
    filled = own.new_zeros((2 * n_max, *own.shape[1:]))
    filled[: len(own)] = own
    everyone = gather(batch, filled)
    return torch.cat([rows[: 2 * n] for rows, n in zip(everyone, batch.rows, strict=True)])


def _units(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows of both views in the result dtype, and their norms in float64."""
    z = torch.cat((x, y)).to(result_dtype(x.dtype))
    norm = torch.linalg.vector_norm(z, dim=1, keepdim=True, dtype=torch.float64)
    return (z / norm.clamp_min(MIN_NORM)).to(z.dtype), norm


def _logits(
    u: Tensor, everyone: Tensor, first: int, temperature: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Blocks of own rows: their positions, their positives' columns and their logits, -inf for a
    row with itself. Own row i is row first + i of everyone."""
    count = len(u)
    positions = torch.arange(count, device=u.device)
    for rows in positions.split(max(1, _LOGITS // len(everyone))):
        logits = (u[rows] @ everyone.T).div_(temperature)
        logits.scatter_(1, (first + rows).unsqueeze(1), -torch.inf)
        yield rows, first + ((rows + count // 2) % count).unsqueeze(1), logits


def _mean_gap(logits: Tensor, positive: Tensor, rest: Tensor) -> Tensor:
    """sum_k P_ik (s_ik - s_ip) of a block's rows, in logits the positives' own being -inf."""
    lse = torch.logaddexp(rest, positive).to(logits.dtype)
    gap = (logits - positive.to(logits.dtype).unsqueeze(1)).masked_fill_(logits.isneginf(), 0.0)
    return (gap * (logits - lse.unsqueeze(1)).exp()).sum(1)


class _NTXent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, batch: Batch, learned: float | Tensor) -> Tensor:
        temperature = learned.item() if isinstance(learned, Tensor) else learned
        first = 2 * sum(batch.rows[: batch.rank])
        gaps, positives, on_logits = [], [], []
        with torch.autocast(x.device.type, enabled=False):
            u, _ = _units(x, y)
            everyone = _gather_rows(batch, u)
            for _, positive, logits in _logits(u, everyone, first, temperature):
                positives.append(logits.gather(1, positive).squeeze(1).double())
                rest = logits.scatter_(1, positive, -torch.inf).double().logsumexp(1)
                gaps.append(rest - positives[-1])
                if ctx.needs_input_grad[3]:
                    on_logits.append(_mean_gap(logits, positives[-1], rest))
            at_positive = torch.cat(positives)
            # softplus turns into the identity past a threshold; logaddexp does not.
            row_loss = torch.logaddexp(torch.cat(gaps), at_positive.new_zeros(()))
            own_lse = at_positive + row_loss
            rows = _gather_rows(batch, torch.stack((row_loss, -at_positive, own_lse), 1))
            terms = rows.mean(0).to(u.dtype)
            missing = -torch.expm1(-row_loss)
            missing = missing + missing.roll(len(missing) // 2)
            product = u.new_empty(0)
            if any(ctx.needs_input_grad[:2]):
                product = torch.empty_like(u)
                lse = rows[:, 2].to(u.dtype)
                for block, positive, logits in _logits(u, everyone, first, temperature):
                    share = (logits - own_lse[block].unsqueeze(1).to(u.dtype)).exp_()
                    share += logits.sub_(lse).exp_()
                    product[block] = share.scatter_(1, positive, 0.0) @ everyone
        slopes = product.new_empty(0)
        if ctx.needs_input_grad[3]:
            gap, positive = torch.cat(on_logits).sum(), at_positive.sum()
            slopes = torch.stack((-gap, positive, -gap - positive)) / (temperature * len(rows))
        ctx.save_for_backward(x, y, missing, product, slopes)
        ctx.batch, ctx.temperature = batch, temperature
        ctx.like = learned.detach() if isinstance(learned, Tensor) else None
        return terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, missing, product, slopes = ctx.saved_tensors
        batch = ctx.batch
        need_x, need_y, _, need_temperature = ctx.needs_input_grad
        upstream = grad.double() * batch.world
        on_temperature = (slopes * upstream).sum().to(ctx.like) if need_temperature else None
        if not (need_x or need_y):
            return None, None, None, on_temperature
        u, norm = _units(x, y)
        on_loss, on_alignment, on_uniformity = upstream.unbind()
        on_lse = on_loss + on_uniformity
        on_positive = 2 * (on_uniformity - on_alignment) - on_lse * missing
        n = len(u) // 2
        on_u = product * on_lse.to(u.dtype)
        on_u += u.roll(n, 0).mul_(on_positive.to(u.dtype).unsqueeze(1))
        on_u /= 2 * batch.total * ctx.temperature
        inside = (on_u * u).sum(1, keepdim=True, dtype=torch.float64)
        inside = torch.where(norm < MIN_NORM, 0.0, inside)
        on_z = ((on_u - inside * u) / norm.clamp_min(MIN_NORM)).to(x.dtype)
        return on_z[:n] if need_x else None, on_z[n:] if need_y else None, None, on_temperature


@outside_graphs
def nt_xent(x: Tensor, y: Tensor, batch: Batch, temperature: float | Tensor) -> Tensor:
    """[3]: loss, alignment, uniformity."""
    return _NTXent.apply(x, y, batch, temperature)
