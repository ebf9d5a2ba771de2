"""Barlow Twins as lightly and solo-learn gather it: the mean of the ranks' cross-correlations.

Each of W ranks normalizes its n_r rows by its OWN means and biased variances, to a_r and b_r, and

    C = 1/W sum_r a_r^T b_r / n_r = 1/N sum_r A_r^T B_r,    A_r = w_r a_r,  w_r^2 = N / (W n_r).

With A and B, the N rows of all ranks, ranks share the work as in ``barlow_twins.py``: of a wide
problem by columns of A and B, whose Gram matrices K_A and K_B are VICReg's (columns add up to
zero), of any other by own rows. The way back through the normalization stays on the rank. The
columns of b_r add up to zero, hence those of dL/da too:

    dL/dA_r = 2/N (g_off T_A + B_r diag(g_on (c - 1))),   T_A = B_r O^T,  O = C - diag(c)
    wide:   T_A = (the rank's rows of K_B A) / N - B_r diag(c)
    dL/dx = (dL/da - a diag(mean over the rank's rows of a dL/da)) diag(factor),  dL/da = w dL/dA
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.distributed.barlow_twins import inner_product
from sslkernels.distributed.batch import Batch, add_up, once_differentiable, outside_graphs
from sslkernels.distributed.parts import add_columns, gather_columns, to_columns, to_rows
from sslkernels.numerics.views import result_dtype, wide
from sslkernels.passes.selection import select
from sslkernels.passes.vicreg import Part, VICRegSettings

_COVARIANCE = VICRegSettings(invariance=False, variance=False)
_VARIANCE = VICRegSettings(invariance=False, covariance=False)


def _units(x: Tensor, y: Tensor, mean: Tensor, factor: Tensor) -> list[Tensor]:
    """a_r and b_r: the rows normalized. The mean is split: a common offset costs no digits."""
    high = mean.to(result_dtype(x.dtype))
    low, scale = (mean - high).to(high.dtype), factor.to(high.dtype)
    return [torch.sub(z, high[v]).sub_(low[v]).mul_(scale[v]) for v, z in enumerate((x, y))]


_Results = tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]


def _wide(
    batch: Batch, x: Tensor, y: Tensor, eps: float, weight: float, need: tuple[bool, ...]
) -> _Results:
    """Own means and factors, c, ||O||_F^2 and T, empty where not needed."""
    part = Part(batch.total, x.shape[1])
    passes = select("vicreg", x)
    _, mean, var, _ = passes.vicreg_forward(x.unsqueeze(0), y.unsqueeze(0), _VARIANCE)
    mean, var = mean.squeeze(1), var.squeeze(1)
    factor = (var * ((len(x) - 1) / len(x)) + eps).rsqrt()
    rows = [unit.mul_(weight) for unit in _units(x, y, mean, factor)]
    columns = to_columns(batch, [z.unsqueeze(0) for z in rows])
    _, zero, spread, gram = passes.vicreg_forward(*columns, _COVARIANCE, part=part)
    add_up(batch, gram)
    own_c = (columns[0] * columns[1]).sum(1, dtype=torch.float64) / part.rows
    share = [inner_product(batch, gram.squeeze(1))]
    c, (product,) = gather_columns(batch, own_c, part.columns, share)
    c = c.squeeze(0)
    products = [gram.new_empty(0)] * 2
    if batch.need_x or batch.need_y:
        # VICReg's gradient is 4 / (D (N - 1)^2) (K Z - (N - 1) Z diag(var)).
        scale = gram.new_full((), part.columns * (part.rows - 1) ** 2 / (4 * part.rows))
        grads = passes.vicreg_backward(
            *(gram.new_ones(4), *columns, zero, torch.zeros_like(spread), gram.flip(0)),
            *(_COVARIANCE, batch.need_x, batch.need_y),
            part=part,
        )
        for v, on_columns in enumerate(grads):
            if on_columns is not None:
                on_rows = to_rows(batch, on_columns, part.columns)
                if need[v]:
                    products[v] = rows[1 - v] * -c.to(gram.dtype)
                    add_columns(batch, products[v].unsqueeze(0), on_rows, scale)
    return mean, factor, c, product / part.rows**2 - c.square().sum(), products


def _narrow(
    batch: Batch, x: Tensor, y: Tensor, eps: float, weight: float, need: tuple[bool, ...]
) -> _Results:
    """As :func:`_wide`."""
    part = Part(batch.total, x.shape[1])
    passes = select("barlow_twins", x)
    _, columns, gram = passes.barlow_twins_forward(x, y, 0.0, eps, part=part)
    mean, factor = columns[:2], columns[2:4]
    c = add_up(batch, columns[4] / batch.world)
    add_up(batch, gram).div_(batch.world)
    products = [gram.new_empty(0)] * 2
    if any(need):
        # The pass's gradient by rows that are normalized already: 2/N T, for g_off = N / 2.
        columns = torch.zeros_like(columns)
        columns[2:4] = 1
        grad = gram.new_zeros(3)
        grad[2] = part.rows / 2
        rows = [unit.mul_(weight) for unit in _units(x, y, mean, factor)]
        grads = passes.barlow_twins_backward(
            *(grad, *rows, columns, gram, 0.0, *need), part=part, squares=columns[:2]
        )
        products = [none if g is None else g for none, g in zip(products, grads, strict=True)]
    squares = torch.linalg.vector_norm(gram, dtype=torch.float64).square()
    return mean, factor, c, squares, products


class _BarlowTwinsOfRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, batch: Batch, eps: float, scale: float) -> Tensor:
        ctx.weight = (batch.total / (batch.world * len(x))) ** 0.5
        side = _wide if wide(batch.total, x.shape[1]) else _narrow
        with torch.autocast(x.device.type, enabled=False):
            results = side(batch, x, y, eps, ctx.weight, ctx.needs_input_grad[:2])
        mean, factor, c, off_diagonal, products = results
        ctx.save_for_backward(x, y, mean, factor, c, *products)
        ctx.scale = 2 * scale / batch.total
        terms = torch.stack(((c - 1).square().sum(), off_diagonal))
        return terms.to(result_dtype(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, factor, c, *products = ctx.saved_tensors
        on_diagonal, off_diagonal = (grad.double() * ctx.scale).unbind()
        on = (on_diagonal * ctx.weight**2 * (c - 1)).to(result_dtype(x.dtype))
        off = (off_diagonal * ctx.weight).to(on.dtype)
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


@outside_graphs
def barlow_twins_of_ranks(x: Tensor, y: Tensor, batch: Batch, eps: float, scale: float) -> Tensor:
    """[2]: on_diagonal, off_diagonal; a rank's gradients are ``scale`` times those of all ranks'
    terms."""
    return _BarlowTwinsOfRanks.apply(x, y, batch, eps, scale)
