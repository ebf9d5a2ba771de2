"""Barlow Twins of the global batch: the kernels of ``sslkernels/passes/barlow_twins.py``, each rank
its part.

With a, b the views normalized by global moments, N x D over all ranks, a_s some columns, a_r some
rows, C = a^T b / N, c its diagonal and C' the rest:

    wide:      K_a = sum_s a_s a_s^T, K_b likewise; moments and c of columns are whole on one rank
    otherwise: N C = sum_r (a_r^T b_r, from own moments, + n_r d_r e_r^T), see ``parts.py``

are added up over ranks. Of the latter, the backward pass takes the gradient of its own rows as one
process does, the means over all rows that it needs being known from C'. Of the former, the gradient
of the off-diagonal term is a rank's for its columns of all rows: the forward pass takes it, where
any rank wants a gradient, and a second all-to-all brings each rank its rows of it, [n, D] per view,
which are kept. The on-diagonal term's is of own rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.distributed.batch import Batch, add_up, once_differentiable, outside_graphs
from sslkernels.distributed.parts import (
    add_columns,
    gather_columns,
    gather_counted,
    merged_means,
    own_share,
    to_columns,
    to_rows,
)
from sslkernels.numerics.views import result_dtype, wide
from sslkernels.passes.selection import named, select
from sslkernels.passes.vicreg import Part


class _BarlowTwins(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, batch: Batch, lambda_: float, eps: float) -> Tensor:
        passes = select("barlow_twins", x)
        part = Part(batch.total, x.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            results = (_wide if wide(*part) else _narrow)(passes, batch, [x, y], part, eps)
        columns, off_diagonal, kept = results
        on_diagonal = (columns[4] - 1).square().sum()
        ctx.save_for_backward(x, y, columns, *kept)
        ctx.batch, ctx.lambda_, ctx.passes = batch, lambda_, passes.__name__
        terms = torch.stack((on_diagonal + lambda_ * off_diagonal, on_diagonal, off_diagonal))
        return terms.to(result_dtype(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, columns, *kept = ctx.saved_tensors
        batch = ctx.batch
        part = Part(batch.total, x.shape[1])
        takes_rows = wide(*part)
        grad = grad * batch.world
        gram, squares = (grad.new_empty(0), None) if takes_rows else kept
        grads = named(ctx.passes).barlow_twins_backward(
            *(grad, x, y, columns, gram, ctx.lambda_),
            *ctx.needs_input_grad[:2],
            part=part,
            squares=squares,
        )
        results: list[Tensor | None] = [None, None]
        off_diagonal = grad[0] * ctx.lambda_ + grad[2]
        for v, out in enumerate(grads):
            if out is not None:
                if takes_rows:
                    add_columns(batch, out.unsqueeze(0), kept[v], off_diagonal)
                results[v] = out.to(x.dtype)
        return (*results, None, None, None)


_Results = tuple[Tensor, Tensor, list[Tensor]]


def inner_product(batch: Batch, gram: Tensor) -> Tensor:
    """This rank's share of <K_a, K_b>, gram [2, N, N], in float64."""
    k_a, k_b = own_share(batch, gram)
    return (k_a.double() * k_b).sum()


def _wide(passes: Any, batch: Batch, views: list[Tensor], part: Part, eps: float) -> _Results:
    """Columns [5, D], the off-diagonal term, and this rank's rows of its gradient by each view,
    empty where no rank wants it."""
    own = [z.squeeze(0) for z in to_columns(batch, [z.unsqueeze(0) for z in views])]
    _, own_columns, gram = passes.barlow_twins_forward(*own, 0.0, eps, part=part)
    add_up(batch, gram)
    share = [inner_product(batch, gram)]
    columns, (product,) = gather_columns(batch, own_columns, part.columns, share)
    needs = batch.need_x, batch.need_y
    kept = [gram.new_empty(0)] * 2
    if any(needs):
        grad = gram.new_zeros(3)
        grad[2] = 1
        grads = passes.barlow_twins_backward(
            *(grad, *own, own_columns, gram, 0.0, *needs), part=part
        )
        kept = [
            none if g is None else to_rows(batch, g.unsqueeze(0), part.columns)
            for none, g in zip(kept, grads, strict=True)
        ]
    return columns, product / part.rows**2 - columns[4].square().sum(), kept


def _narrow(passes: Any, batch: Batch, views: list[Tensor], part: Part, eps: float) -> _Results:
    """Columns [5, D], the off-diagonal term, C' and its squared row and column norms."""
    _, own, gram = passes.barlow_twins_forward(*views, 0.0, eps, part=part)
    everyone, rows = gather_counted(batch, own)
    mean, offset = merged_means(batch, everyone[:, :2], rows)
    spread = everyone[:, 2:4].square().reciprocal()  # variance + eps
    factor = ((rows * (spread + offset.square())).sum(0) / part.rows).rsqrt()
    products = everyone[:, 4] / everyone[:, 2:4].prod(1) + offset.prod(1)
    c = (rows[:, 0] * products).sum(0) / part.rows * factor.prod(0)

    share = batch.rows[batch.rank] / part.rows
    matrix = gram[0]
    scale = (factor / own[2:4]).to(gram.dtype)  # own rows are normalized by own moments
    apart = (factor * offset[batch.rank]).to(gram.dtype)
    matrix.mul_(scale[0].unsqueeze(1) * share).mul_(scale[1])
    matrix.addr_(*apart, alpha=share)
    add_up(batch, matrix).diagonal().zero_()
    norms = [torch.linalg.vector_norm(matrix, dim=dim, dtype=torch.float64) for dim in (1, 0)]
    squares = torch.stack(norms).square()
    return torch.cat((mean, factor, c.unsqueeze(0))), squares[0].sum(), [gram, squares]


@outside_graphs
def barlow_twins(x: Tensor, y: Tensor, batch: Batch, lambda_: float, eps: float) -> Tensor:
    """[3]: loss, on_diagonal, off_diagonal."""
    return _BarlowTwins.apply(x, y, batch, lambda_, eps)
