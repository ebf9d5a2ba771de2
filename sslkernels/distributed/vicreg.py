"""VICReg of the global batch: the kernels of ``sslkernels/passes/vicreg.py``, each rank its part.

With Z one view of one problem, N x D over all ranks, Z_s some of its columns, Z_r some of its rows:

    wide:      Z Z^T = sum_s Z_s Z_s^T, and moments of columns are whole on one rank
    otherwise: Z^T Z = sum_r (Z_r^T Z_r around own means + n_r d_r d_r^T), see ``parts.py``

are added up over ranks. Of the latter, the backward pass takes the gradient of its own rows as one
process does. Of the former, the covariance's gradient is a rank's for its columns of all rows: the
forward pass takes it, where any rank wants a gradient, and a second all-to-all brings each rank its
rows of it, [n, D] per view, which are kept.
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
from sslkernels.passes.vicreg import Part, VICRegSettings, problems, unproblems

_COVARIANCE = VICRegSettings(invariance=False, variance=False)


class _VICReg(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, batch: Batch, settings: VICRegSettings) -> Tensor:
        sim, std, cov, gamma, eps, *_ = settings
        views = [problems(x), problems(y)]
        p, _, d = views[0].shape
        n = batch.total
        passes = select("vicreg", x)
        with torch.autocast(x.device.type, enabled=False):
            results = (_wide if wide(n, d) else _narrow)(passes, batch, views, settings)
        mean, var, squares, invariance, kept = results
        covariance = squares / (p * d * (n - 1) ** 2)
        variance = torch.relu(gamma - (var + eps).sqrt()).mean()
        loss = sim * invariance + std * variance + cov * covariance
        ctx.save_for_backward(x, y, mean, var, *kept)
        ctx.batch, ctx.settings, ctx.passes = batch, settings, passes.__name__
        return torch.stack((loss, invariance, variance, covariance)).to(result_dtype(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, var, *kept = ctx.saved_tensors
        batch, settings = ctx.batch, ctx.settings
        views = [problems(x), problems(y)]
        part = Part(batch.total, x.shape[-1])
        takes_rows = wide(*part)
        grad = grad * batch.world
        grads = named(ctx.passes).vicreg_backward(
            *(grad, *views, mean, var),
            mean.new_empty(0) if takes_rows else kept[0],
            settings._replace(covariance=not takes_rows),
            *ctx.needs_input_grad[:2],
            part=part,
        )
        results: list[Tensor | None] = [None, None]
        on_covariance = grad[0] * settings.cov + grad[3]
        for v, (out, z) in enumerate(zip(grads, (x, y), strict=True)):
            if out is not None:
                if takes_rows:
                    add_columns(batch, out, kept[v], on_covariance)
                results[v] = unproblems(out.to(z.dtype), z)
        return (*results, None, None)


_Results = tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]


def _wide(passes: Any, batch: Batch, views: list[Tensor], settings: VICRegSettings) -> _Results:
    """Means, variances, the sum of squares off the diagonal of each Z^T Z, the invariance, and
    this rank's rows of the covariance's gradient by each view, empty where no rank wants it."""
    part = Part(batch.total, views[0].shape[2])
    columns = to_columns(batch, views)
    terms, mean, var, gram = passes.vicreg_forward(*columns, settings, part=part)
    add_up(batch, gram)
    shares = [
        torch.linalg.vector_norm(own_share(batch, gram), dtype=torch.float64).square()
        - (part.rows - 1) ** 2 * var.square().sum(),
        terms[1],
    ]
    moments = torch.cat((mean.flatten(0, 1), var.flatten(0, 1)))
    moments, (squares, invariance) = gather_columns(batch, moments, part.columns, shares)
    needs = batch.need_x, batch.need_y
    kept = [gram.new_empty(0)] * 2
    if any(needs):
        grads = passes.vicreg_backward(
            *(gram.new_ones(4), *columns, mean, var, gram, _COVARIANCE, *needs),
            part=part,
        )
        kept = [
            none if g is None else to_rows(batch, g, part.columns)
            for none, g in zip(kept, grads, strict=True)
        ]
    whole_mean, whole_var = moments.view(2, *mean.shape[:2], -1)
    return whole_mean, whole_var, squares, invariance, kept


def _narrow(passes: Any, batch: Batch, views: list[Tensor], settings: VICRegSettings) -> _Results:
    """Means, variances, the sum of squares off the diagonal of each Z^T Z, the invariance, and
    these matrices."""
    part = Part(batch.total, views[0].shape[2])
    terms, mean, var, gram = passes.vicreg_forward(*views, settings, part=part)
    own = torch.cat((mean.flatten(), var.flatten(), terms[1:2].double()))
    everyone, rows = gather_counted(batch, own)
    means, variances, shares = everyone.split([mean.numel(), var.numel(), 1], dim=1)
    mean, offset = merged_means(batch, means, rows)
    var = (variances + rows * offset.square() / (part.rows - 1)).sum(0)
    own_offset = offset[batch.rank].view(-1, gram.shape[-1]).to(gram.dtype)
    for matrix, apart in zip(gram.flatten(0, 1), own_offset, strict=True):
        matrix.addr_(apart, apart, alpha=batch.rows[batch.rank])
    add_up(batch, gram).diagonal(dim1=2, dim2=3).zero_()
    squares = torch.linalg.vector_norm(gram, dtype=torch.float64).square()
    shape = (*gram.shape[:2], -1)
    return mean.view(shape), var.view(shape), squares, shares.sum(), [gram]


@outside_graphs
def vicreg(x: Tensor, y: Tensor, batch: Batch, settings: VICRegSettings) -> Tensor:
    """[4]: loss, invariance, variance, covariance; every term is asked for."""
    return _VICReg.apply(x, y, batch, settings)
