"""Barlow Twins as lightly and solo-learn gather it: the mean of the ranks' cross-correlations.

Each of W ranks normalizes its n_r rows by its OWN means and biased variances, to a_r and b_r, and

    C = 1/W sum_r a_r^T b_r / n_r = 1/N sum_r A_r^T B_r,    A_r = w_r a_r,  w_r^2 = N / (W n_r).

With A and B, the N rows of all ranks, the algebra is that of ``barlow_twins.py``, and simpler:
there are no global moments, a rank sends rows that are normalized already, and the way back through
the normalization stays on the rank. The columns of b_r add up to zero, hence those of dL/da too:

    dL/dA_r = 2/N (g_off T_A + B_r diag(g_on (c - 1))),   T_A = B_r O^T,  O = C - diag(c)
    dL/dx = (dL/da - a diag(mean over the rank's rows of a dL/da)) diag(factor),  dL/da = w dL/dA
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.distributed.batch import Batch, add_up, gather, once_differentiable, outside_graphs
from sslkernels.distributed.moments import centered, local_moments
from sslkernels.numerics.views import result_dtype, wide

_BLOCK = 256  # rows whose products take float64 at a time


def _wide(
    batch: Batch, a: Tensor, b: Tensor, diagonal: Tensor, need: list[bool]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """c, ||O||_F^2 and, where needed, T; a and b are A_r and B_r, ``diagonal`` their part of N c.

    One gather of rows, in which ranks with fewer fill up with zeros; one sum over ranks.
    """
    own = a.new_zeros(2, max(batch.rows), a.shape[1])
    own[0, : len(a)], own[1, : len(b)] = a, b
    all_a, all_b = gather(batch, own).transpose(0, 1).flatten(1, 2)
    k_a, k_b = a @ all_a.T, b @ all_b.T
    blocks = zip(k_a.split(_BLOCK), k_b.split(_BLOCK), strict=True)
    inner = torch.stack([(i.double() * j).sum() for i, j in blocks]).sum()
    sums = add_up(batch, torch.cat((inner.reshape(1), diagonal)))
    c = sums[1:] / batch.total
    products = [
        torch.addmm(own * c.to(own.dtype), k, everyone, beta=-1, alpha=1 / batch.total)
        if needed
        else own.new_empty(0)
        for needed, own, k, everyone in ((need[0], b, k_b, all_a), (need[1], a, k_a, all_b))
    ]
    return c, sums[0] / batch.total**2 - c.square().sum(), products


def _narrow(
    batch: Batch, a: Tensor, b: Tensor, diagonal: Tensor, need: list[bool]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    c = add_up(batch, diagonal) / batch.total
    off = add_up(batch, a.T @ b).div_(batch.total)
    off.diagonal().zero_()
    squares = torch.linalg.vector_norm(off, dtype=torch.float64).square()
    products = [
        b @ off.T if need[0] else b.new_empty(0),
        a @ off if need[1] else a.new_empty(0),
    ]
    return c, squares, products


class _BarlowTwinsOfRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, batch: Batch, eps: float, scale: float) -> Tensor:
        ctx.weight = (batch.total / (batch.world * len(x))) ** 0.5
        with torch.autocast(x.device.type, enabled=False):
            mean, m2, _ = local_moments(x.unsqueeze(0), y.unsqueeze(0))
            factor = (m2 / len(x) + eps).rsqrt()
            a, b = (unit.mul_(ctx.weight) for unit in _units(x, y, mean, factor))
            diagonal = (a * b).sum(0, dtype=torch.float64)
            correlation = _wide if wide(batch.total, x.shape[1]) else _narrow
            need = list(ctx.needs_input_grad[:2])
            c, off_diagonal, products = correlation(batch, a, b, diagonal, need)
        ctx.save_for_backward(x, y, mean, factor, c, *products)
        ctx.scale = 2 * scale / batch.total
        return torch.stack(((c - 1).square().sum(), off_diagonal)).to(a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, factor, c, *products = ctx.saved_tensors
        w = ctx.weight
        on_diagonal, off_diagonal = (grad.double() * ctx.scale).unbind()
        on = (on_diagonal * w**2 * (c - 1)).to(result_dtype(x.dtype))
        off = (off_diagonal * w).to(on.dtype)
        grads: list[Tensor | None] = [None, None]
        with torch.autocast(x.device.type, enabled=False):
            units = _units(x, y, mean, factor)
            for v in (0, 1):
                if ctx.needs_input_grad[v]:
                    out = (products[v] * off).addcmul_(units[1 - v], on)
                    along = (units[v] * out).mean(0, dtype=torch.float64).to(out.dtype)
                    out.addcmul_(units[v], along, value=-1)
                    grads[v] = out.mul_(factor[v].to(out.dtype)).to(x.dtype)
        return (*grads, None, None, None)


def _units(x: Tensor, y: Tensor, mean: Tensor, factor: Tensor) -> list[Tensor]:
    """a_r and b_r: the rows normalized."""
    dtype = result_dtype(x.dtype)
    return [centered(z, mean[v]).mul_(factor[v].to(dtype)) for v, z in enumerate((x, y))]


@outside_graphs
def barlow_twins_of_ranks(x: Tensor, y: Tensor, batch: Batch, eps: float, scale: float) -> Tensor:
    """[2]: on_diagonal, off_diagonal; a rank's gradients are ``scale`` times those of all ranks'
    terms."""
    return _BarlowTwinsOfRanks.apply(x, y, batch, eps, scale)
