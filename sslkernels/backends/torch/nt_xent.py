"""NT-Xent in dense torch operations, some rows at a time: the algebra of
``sslkernels/passes/nt_xent.py``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sslkernels.numerics.unit_rows import MIN_NORM
from sslkernels.numerics.views import result_dtype

_LOGITS = 2**22  # logits in memory at once


def _units(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows of both views in the result dtype, and their norms in float64."""
    z = torch.cat((x, y)).to(result_dtype(x.dtype))
    norm = torch.linalg.vector_norm(z, dim=1, keepdim=True, dtype=torch.float64)
    return (z / norm.clamp_min(MIN_NORM)).to(z.dtype), norm


def _logits(u: Tensor, temperature: float, at_once: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Blocks of rows: their positions, their positives' and their logits, -inf on the diagonal."""
    count = u.shape[0]
    for rows in torch.arange(count, device=u.device).split(max(1, at_once // count)):
        logits = (u[rows] @ u.T).div_(temperature)
        logits.scatter_(1, rows.unsqueeze(1), -torch.inf)
        yield rows, ((rows + count // 2) % count).unsqueeze(1), logits


@torch.no_grad()
def nt_xent_forward(
    x: Tensor, y: Tensor, temperature: float, *, logits_at_once: int = _LOGITS
) -> tuple[Tensor, Tensor]:
    gaps, positives = [], []
    with torch.autocast(x.device.type, enabled=False):
        u, _ = _units(x, y)
        for _, positive, logits in _logits(u, temperature, logits_at_once):
            positives.append(logits.gather(1, positive).squeeze(1).double())
            rest = logits.scatter_(1, positive, -torch.inf).double().logsumexp(1)
            gaps.append(rest - positives[-1])
    at_positive = torch.cat(positives)
    # softplus turns into the identity past a threshold; logaddexp does not.
    row_loss = torch.logaddexp(torch.cat(gaps), at_positive.new_zeros(()))
    lse = at_positive + row_loss
    terms = torch.stack((row_loss.mean(), -at_positive.mean(), lse.mean()))
    return terms.to(u.dtype), torch.stack((lse, row_loss))


@torch.no_grad()
def nt_xent_backward(
    grad: Tensor,  # [3]
    x: Tensor,  # [N, D]
    y: Tensor,
    rows: Tensor,  # [2, 2N]
    temperature: float,
    need_x: bool,
    need_y: bool,
    *,
    logits_at_once: int = _LOGITS,
) -> tuple[Tensor | None, Tensor | None]:
    on_loss, on_alignment, on_uniformity = grad.double().unbind()
    on_lse = on_loss + on_uniformity
    lse, row_loss = rows
    missing = -torch.expm1(-row_loss)
    missing = missing + missing.roll(len(missing) // 2)
    at_positive = 2 * (on_uniformity - on_alignment) - on_lse * missing
    with torch.autocast(x.device.type, enabled=False):
        u, norm = _units(x, y)
        on_u = torch.empty_like(u)
        for block, positive, logits in _logits(u, temperature, logits_at_once):
            share = (logits - lse[block].unsqueeze(1).to(u.dtype)).exp_()
            share += logits.sub_(lse.to(u.dtype)).exp_()
            share *= on_lse.to(u.dtype)
            share.scatter_(1, positive, at_positive[block].unsqueeze(1).to(u.dtype))
            on_u[block] = share @ u
        on_u /= len(u) * temperature
        inside = (on_u * u).sum(1, keepdim=True, dtype=torch.float64)
        inside = torch.where(norm < MIN_NORM, 0.0, inside)
        on_z = (on_u - inside * u) / norm.clamp_min(MIN_NORM)
    grads = on_z.to(x.dtype).split(x.shape[0])
    return (
        grads[0].contiguous() if need_x else None,
        grads[1].clone() if need_y else None,
    )


@torch.no_grad()
def nt_xent_by_temperature(
    x: Tensor,  # [N, D]
    y: Tensor,
    rows: Tensor,  # [2, 2N]
    temperature: float,
    *,
    logits_at_once: int = _LOGITS,
) -> Tensor:
    """[3] float64: the derivatives of loss, alignment and uniformity by the temperature."""
    lse = rows[0]
    gaps = []
    with torch.autocast(x.device.type, enabled=False):
        u, _ = _units(x, y)
        for block, positive, logits in _logits(u, temperature, logits_at_once):
            share = (logits - lse[block].unsqueeze(1).to(u.dtype)).exp_()
            gap = logits.sub_(logits.gather(1, positive))
            gap.scatter_(1, block.unsqueeze(1), 0.0)  # -inf times a share of 0 is NaN
            gaps.append((gap * share).sum(1, dtype=torch.float64))
    gap_mean, positive_mean = torch.cat(gaps).mean(), (lse - rows[1]).mean()
    return torch.stack((-gap_mean, positive_mean, -gap_mean - positive_mean)) / temperature
