"""Barlow Twins in dense torch operations: any device, the algebra of
``sslkernels/passes/barlow_twins.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.numerics.views import center, result_dtype, wide
from sslkernels.passes.vicreg import Part


def _normalize(z: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Column means and factors in float64, and the normalized rows."""
    n = z.shape[0]
    dtype = result_dtype(z.dtype)
    shift = z[:1].to(dtype)  # the first row, near the data
    mean = shift[0].double() + (z.to(dtype) - shift).sum(0, dtype=torch.float64) / n
    centered = center(z, mean)
    factor = (centered.square().sum(0, dtype=torch.float64) / n + eps).rsqrt()
    return mean, factor, centered.mul_(factor.to(dtype))


@torch.no_grad()
def barlow_twins_forward(
    x: Tensor, y: Tensor, lambda_: float, eps: float, *, part: Part | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    n, d = x.shape
    with torch.autocast(x.device.type, enabled=False):
        mean_x, factor_x, a = _normalize(x, eps)
        mean_y, factor_y, b = _normalize(y, eps)
        c = (a * b).sum(0, dtype=torch.float64) / n
        if wide(*(part or (n, d))):
            gram = torch.stack((a @ a.T, b @ b.T))
            product = (gram[0].double() * gram[1]).sum()
            off_diagonal = product / n**2 - c.square().sum()
        else:
            gram = (a.T @ b).div_(n).unsqueeze(0)
            gram[0].diagonal().zero_()
            off_diagonal = torch.linalg.vector_norm(gram, dtype=torch.float64).square()
        on_diagonal = (c - 1).square().sum()
        terms = torch.stack((on_diagonal + lambda_ * off_diagonal, on_diagonal, off_diagonal))
    return terms.to(a.dtype), torch.stack((mean_x, mean_y, factor_x, factor_y, c)), gram


@torch.no_grad()
def barlow_twins_backward(
    grad: Tensor,  # [3]
    x: Tensor,  # [N, D]
    y: Tensor,
    columns: Tensor,  # [5, D]
    gram: Tensor,
    lambda_: float,
    need_x: bool,
    need_y: bool,
    *,
    part: Part | None = None,
    squares: Tensor | None = None,  # [2, D]
) -> tuple[Tensor | None, Tensor | None]:
    n, d = part or x.shape
    dtype = result_dtype(x.dtype)
    total, on_diagonal, off_diagonal = grad.double().unbind()
    on, off = total + on_diagonal, total * lambda_ + off_diagonal
    factors, c = columns[2:4], columns[4]
    results: list[Tensor | None] = [None, None]
    with torch.autocast(x.device.type, enabled=False):
        units = [center(z, columns[v]).mul_(factors[v].to(dtype)) for v, z in enumerate((x, y))]
        for v, needed in enumerate((need_x, need_y)):
            if not needed:
                continue
            own, other = units[v], units[1 - v]
            beta = 2 / n * on * (c - 1)
            if gram.numel() == 0:
                on_unit = torch.zeros_like(own)
            elif wide(n, d):
                on_unit = (gram[1 - v] @ own).mul_((2 * off / n**2).to(dtype))
                beta = 2 / n * (on * (c - 1) - off * c)
            else:
                on_unit = (other @ (gram[0].T if v == 0 else gram[0])).mul_((2 * off / n).to(dtype))
            on_unit += other * beta.to(dtype)
            if gram.numel() == 0:
                drift = beta * c
            elif squares is None:
                drift = (on_unit * own).sum(0, dtype=torch.float64) / n
            else:
                drift = 2 / n * off * squares[v] + beta * c
            on_unit -= own * drift.to(dtype)
            on_unit *= factors[v].to(dtype)
            results[v] = on_unit if part else on_unit.to(x.dtype)
    return results[0], results[1]
