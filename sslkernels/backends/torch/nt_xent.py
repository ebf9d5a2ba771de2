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


def _logits(
    u: Tensor, temperature: float, own: tuple[int, int], at_once: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Blocks of own rows: their positions, their positives' and logits, -inf with themselves."""
    count, (first, samples) = u.shape[0], own
    everyone = torch.arange(count, device=u.device).view(2, -1)
    for rows in everyone[:, first : first + samples].flatten().split(max(1, at_once // count)):
        logits = (u[rows] @ u.T).div_(temperature)
        logits.scatter_(1, rows.unsqueeze(1), -torch.inf)
        yield rows, ((rows + count // 2) % count).unsqueeze(1), logits


@torch.no_grad()
def nt_xent_forward(
    x: Tensor,  # [N, D]
    y: Tensor,
    temperature: float,
    own: tuple[int, int] | None = None,
    *,
    logits_at_once: int = _LOGITS,
) -> tuple[Tensor, Tensor]:
    own = own or (0, x.shape[0])
    gaps, positives = [], []
    with torch.autocast(x.device.type, enabled=False):
        u, _ = _units(x, y)
        for _, positive, logits in _logits(u, temperature, own, logits_at_once):
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
    need_radial: bool = False,
    own: tuple[int, int] | None = None,
    unrounded: bool = False,
    *,
    logits_at_once: int = _LOGITS,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    own = own or (0, x.shape[0])
    on_loss, on_alignment, on_uniformity = grad.double().unbind()
    on_lse = on_loss + on_uniformity
    lse, row_loss = rows
    missing = -torch.expm1(-row_loss)
    missing = missing + missing.roll(len(missing) // 2)
    at_positive = 2 * (on_uniformity - on_alignment) - on_lse * missing
    with torch.autocast(x.device.type, enabled=False):
        u, norm = _units(x, y)
        products = []
        for block, positive, logits in _logits(u, temperature, own, logits_at_once):
            share = (logits - lse[block].unsqueeze(1).to(u.dtype)).exp_()
            share += logits.sub_(lse.to(u.dtype)).exp_()
            share *= on_lse.to(u.dtype)
            share.scatter_(1, positive, at_positive[block].unsqueeze(1).to(u.dtype))
            products.append(share @ u)
        on_u = torch.cat(products).div_(len(u) * temperature)
        u, norm = (of.unflatten(0, (2, -1)).narrow(1, *own).flatten(0, 1) for of in (u, norm))
        along = (on_u * u).sum(1, keepdim=True, dtype=torch.float64)
        inside = torch.where(norm < MIN_NORM, 0.0, along)
        on_z = (on_u - inside * u) / norm.clamp_min(MIN_NORM)
    grads = on_z.to(u.dtype if unrounded else x.dtype).chunk(2)
    return (
        grads[0].contiguous() if need_x else None,
        grads[1].clone() if need_y else None,
        along.sum() if need_radial else None,
    )
