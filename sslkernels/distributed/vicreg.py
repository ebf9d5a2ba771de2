"""VICReg of the global batch: the algebra of ``sslkernels/passes/vicreg.py``, each rank its rows.

With Z one view of one problem, N x D over all ranks and Z_r this rank's rows of it, centered by the
global means, the covariance term needs

    wide:      K_r = Z_r Z^T, n x N, after one gather of rows and moments;  sum ||K_r||^2
    otherwise: Z^T Z = the sum of Z_r^T Z_r over ranks, after one gather of moments

and its gradient T_r = Z_r O, O being Z^T Z with its diagonal set to zero:

    wide:      T_r = K_r Z - Z_r diag(Z^T Z),    dc/dZ_r = 4 / (D (N-1)^2) T_r.

Forward computes T_r where a gradient is wanted: [n, D] per view is all that is kept of the
covariance, neither gathered rows nor a D x D matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.distributed.batch import Batch, add_up, gather, once_differentiable, outside_graphs
from sslkernels.distributed.moments import (
    Local,
    Moments,
    centered,
    gather_moments,
    gather_rows,
    local_moments,
)
from sslkernels.numerics.views import result_dtype, wide
from sslkernels.passes.vicreg import VICRegSettings


def _problems(z: Tensor) -> Tensor:
    """[n, D] or [n, ..., D] as [P, n, D]."""
    return z.unsqueeze(0) if z.ndim == 2 else z.flatten(1, -2).transpose(0, 1)


def _wide(
    batch: Batch, views: list[Tensor], local: Local, needed: list[bool]
) -> tuple[Moments, Tensor, list[Tensor]]:
    """Moments, the sum of squares off the diagonal of each Z^T Z, and T where needed."""
    moments, rows = gather_rows(batch, views, local)
    squares, products = [], []
    for q, need in enumerate(needed):
        own = rows.own(q)
        k = rows.products(own, q)
        squares.append(torch.linalg.vector_norm(k, dtype=torch.float64).square())
        if need:
            diagonal = moments.m2[q].to(own.dtype)
            products.append(rows.combine(k, q).sub_(own.mul_(diagonal)))
    total = gather(batch, torch.stack(squares)).sum(0)
    return moments, total - moments.m2.square().sum(1), products


def _narrow(
    batch: Batch, views: list[Tensor], local: Local, needed: list[bool]
) -> tuple[Moments, Tensor, list[Tensor]]:
    moments = gather_moments(batch, local)
    means = moments.mean.view(2, -1, moments.mean.shape[1])
    own = torch.cat([centered(view, mean) for view, mean in zip(views, means, strict=True)])
    gram = add_up(batch, own.mT @ own)
    gram.diagonal(dim1=1, dim2=2).zero_()
    squares = torch.linalg.vector_norm(gram, dim=(1, 2), dtype=torch.float64).square()
    return moments, squares, [own[q] @ gram[q] for q, need in enumerate(needed) if need]


class _VICReg(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, batch: Batch, settings: VICRegSettings) -> Tensor:
        sim, std, cov, gamma, eps, *_ = settings
        views = [_problems(x), _problems(y)]
        p, n, d = views[0].shape
        total = batch.total
        needed = [need for need in ctx.needs_input_grad[:2] for _ in range(p)]
        with torch.autocast(x.device.type, enabled=False):
            mean, m2, invariance = local_moments(*views)
            local = Local(mean, m2, (invariance * n).reshape(1))
            covariance = _wide if wide(total, d) else _narrow
            moments, off_diagonal, products = covariance(batch, views, local, needed)
            var = moments.m2 / (total - 1)
            terms = x.new_empty(4, dtype=torch.float64)
            terms[1] = moments.extra.sum() / total
            terms[2] = torch.relu(gamma - (var + eps).sqrt()).mean()
            terms[3] = off_diagonal.sum() / (p * d * (total - 1) ** 2)
            terms[0] = sim * terms[1] + std * terms[2] + cov * terms[3]
        kept = torch.stack(products) if products else x.new_empty(0)
        ctx.save_for_backward(x, y, moments.mean, var, kept)
        ctx.batch, ctx.settings = batch, settings
        return terms.to(result_dtype(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, var, products = ctx.saved_tensors
        sim, std, cov, gamma, eps, *_ = ctx.settings
        batch = ctx.batch
        views = [_problems(x), _problems(y)]
        p, _, d = views[0].shape
        total, world = batch.total, batch.world
        dtype = result_dtype(x.dtype)
        whole, *own = (grad.double() * world).unbind()
        on_invariance, on_variance, on_covariance = (
            whole * coefficient + term
            for coefficient, term in zip((sim, std, cov), own, strict=True)
        )
        sd = (var + eps).sqrt()
        slope = on_variance / (2 * p * d * (total - 1) * sd)
        beta = torch.where(sd < gamma, slope, 0.0).to(dtype).view(2, p, 1, d)
        on_difference = (2 * on_invariance / (p * total * d)).to(dtype)
        on_product = (4 * on_covariance / (p * d * (total - 1) ** 2)).to(dtype)
        grads: list[Tensor | None] = [None, None]
        with torch.autocast(x.device.type, enabled=False):
            left = iter(products.split(p))
            for v, z in enumerate(views):
                if not ctx.needs_input_grad[v]:
                    continue
                out = next(left) * on_product
                out -= centered(z, mean.view(2, p, d)[v]).mul_(beta[v])
                out += (z.to(dtype) - views[1 - v].to(dtype)).mul_(on_difference)
                out = out.to(z.dtype)
                grads[v] = (
                    out.squeeze(0)
                    if x.ndim == 2
                    else out.transpose(0, 1).unflatten(1, x.shape[1:-1])
                )
        return (*grads, None, None)


@outside_graphs
def vicreg(x: Tensor, y: Tensor, batch: Batch, settings: VICRegSettings) -> Tensor:
    """[4]: loss, invariance, variance, covariance; every term is asked for."""
    return _VICReg.apply(x, y, batch, settings)
