"""Barlow Twins of the global batch: the algebra of ``sslkernels/passes/barlow_twins.py``, each rank
its rows.

With a, b the views normalized by global moments, N x D over all ranks, a_r and b_r this rank's
rows, C = a^T b / N, c its diagonal and O = C - diag(c):

    wide:      K_a,r = a_r a^T and K_b,r = b_r b^T, n x N, after one gather of rows and moments
               ||O||_F^2 = sum_r <K_a,r, K_b,r> / N^2 - sum_j c_j^2
               T_a = b_r O^T = K_b,r a / N - b_r diag(c),  T_b = a_r O = K_a,r b / N - a_r diag(c)
    otherwise: C = sum_r a_r^T b_r / N after one gather of moments; T_a, T_b directly

    dL/da = 2/N (g_off T_a + b diag(g_on (c - 1)))
    dL/dx = (dL/da - a diag(mean over all rows of a dL/da)) diag(factor)
    mean over all rows of a dL/da = 2/N (g_off q_a + g_on (c - 1) c)

where q_a = the squared row norms of O (for b, those of its columns) is the mean over all rows of
a T_a: a wide problem adds it up over ranks in the collective that adds up <K_a, K_b>. c merges like
the variances do (``moments.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.distributed.batch import Batch, add_up, once_differentiable, outside_graphs
from sslkernels.distributed.moments import (
    Local,
    Moments,
    centered,
    gather_moments,
    gather_rows,
    local_moments,
)
from sslkernels.numerics.views import result_dtype, wide


def _columns(batch: Batch, moments: Moments, eps: float) -> tuple[Tensor, Tensor]:
    """The factors 1 / sqrt(var + eps) [2, D] and c [D], float64."""
    total = batch.total
    factor = (moments.m2 / total + eps).rsqrt()
    count = torch.tensor(batch.rows, dtype=torch.float64, device="cpu").to(
        factor.device, non_blocking=True
    )
    apart = (count.unsqueeze(1) * moments.offset.prod(1)).sum(0)
    return factor, (moments.extra.sum(0) + apart) * factor.prod(0) / total


def _wide(
    batch: Batch, views: list[Tensor], local: Local, eps: float
) -> tuple[Moments, Tensor, Tensor, Tensor, list[Tensor], Tensor]:
    """Moments, factors, c, ||O||_F^2, T (empty where no rank needs it) and q [2, D]."""
    moments, rows = gather_rows(batch, views, local)
    factor, c = _columns(batch, moments, eps)
    total = batch.total
    scale = factor.to(rows.rows.dtype)
    own = [rows.own(v).mul_(scale[v]) for v in (0, 1)]
    # Rows of others are not normalized: a a^T = (a_r factor) (centered rows)^T.
    grams = [rows.products(own[v] * scale[v], v) for v in (0, 1)]
    sums = c.new_zeros(1 + 2 * len(c))
    for k_a, k_b in zip(*grams, strict=True):  # a rank's columns at a time: float64 takes memory
        sums[0] += (k_a.double() * k_b).sum()
    products = []
    on_rows = sums[1:].view(2, -1)
    for v, need in enumerate((batch.need_x, batch.need_y)):
        if not need:
            products.append(own[v].new_empty(0))
            continue
        product = rows.combine(grams[1 - v], v).mul_(scale[v]).div_(total)
        product -= own[1 - v] * c.to(product.dtype)
        on_rows[v] = (product * own[v]).sum(0, dtype=torch.float64)
        products.append(product)
    add_up(batch, sums)
    off_diagonal = sums[0] / total**2 - c.square().sum()
    return moments, factor, c, off_diagonal, products, on_rows / total


def _narrow(
    batch: Batch, views: list[Tensor], local: Local, eps: float
) -> tuple[Moments, Tensor, Tensor, Tensor, list[Tensor], Tensor]:
    moments = gather_moments(batch, local)
    factor, c = _columns(batch, moments, eps)
    a, b = (
        centered(view.squeeze(0), moments.mean[v]).mul_(factor[v].to(result_dtype(view.dtype)))
        for v, view in enumerate(views)
    )
    off = add_up(batch, a.T @ b).div_(batch.total)
    off.diagonal().zero_()
    norms = [torch.linalg.vector_norm(off, dim=dim, dtype=torch.float64) for dim in (1, 0)]
    on_rows = torch.stack(norms).square()
    products = [
        b @ off.T if batch.need_x else b.new_empty(0),
        a @ off if batch.need_y else a.new_empty(0),
    ]
    return moments, factor, c, on_rows[0].sum(), products, on_rows


class _BarlowTwins(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, batch: Batch, lambda_: float, eps: float) -> Tensor:
        views = [x.unsqueeze(0), y.unsqueeze(0)]
        with torch.autocast(x.device.type, enabled=False):
            mean, m2, _ = local_moments(*views)
            cross = centered(x, mean[0]).mul_(centered(y, mean[1])).sum(0, dtype=torch.float64)
            local = Local(mean, m2, cross)
            correlation = _wide if wide(batch.total, x.shape[1]) else _narrow
            moments, factor, c, off_diagonal, products, on_rows = correlation(
                batch, views, local, eps
            )
            on_diagonal = (c - 1).square().sum()
            terms = torch.stack((on_diagonal + lambda_ * off_diagonal, on_diagonal, off_diagonal))
        ctx.save_for_backward(x, y, moments.mean, factor, c, on_rows, *products)
        ctx.batch, ctx.lambda_ = batch, lambda_
        return terms.to(result_dtype(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, factor, c, on_rows, *products = ctx.saved_tensors
        dtype = result_dtype(x.dtype)
        total, on_diagonal, off_diagonal = (grad.double() * ctx.batch.world).unbind()
        scale = 2 / ctx.batch.total
        on = scale * (total + on_diagonal) * (c - 1)
        off = scale * (total * ctx.lambda_ + off_diagonal)
        grads: list[Tensor | None] = [None, None]
        with torch.autocast(x.device.type, enabled=False):
            units = [centered(z, mean[v]).mul_(factor[v].to(dtype)) for v, z in enumerate((x, y))]
            for v in (0, 1):
                if ctx.needs_input_grad[v]:
                    out = products[v] * off.to(dtype)
                    out += units[1 - v] * on.to(dtype)
                    out -= units[v] * (off * on_rows[v] + on * c).to(dtype)
                    grads[v] = out.mul_(factor[v].to(dtype)).to(x.dtype)
        return (*grads, None, None, None)


@outside_graphs
def barlow_twins(x: Tensor, y: Tensor, batch: Batch, lambda_: float, eps: float) -> Tensor:
    """[3]: loss, on_diagonal, off_diagonal."""
    return _BarlowTwins.apply(x, y, batch, lambda_, eps)
