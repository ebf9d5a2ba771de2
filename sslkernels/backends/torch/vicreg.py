"""VICReg in dense torch operations: any device, the algebra of ``sslkernels/passes/vicreg.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.numerics.views import center, result_dtype, wide
from sslkernels.passes.vicreg import Part, VICRegSettings, empty_results


def _view_moments(z: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means and unbiased variances [P, D] in float64, as of ``rows`` rows; the centered rows."""
    n = z.shape[1]
    dtype = result_dtype(z.dtype)
    shift = z[:, :1].to(dtype)  # the first row, near the data
    mean = shift.squeeze(1).double() + (z.to(dtype) - shift).sum(1, dtype=torch.float64) / n
    centered = center(z, mean)
    return mean, centered.square().sum(1, dtype=torch.float64) / (rows - 1), centered


def _gram(centered: Tensor, takes_rows: bool) -> Tensor:
    if takes_rows:
        return centered @ centered.mT
    gram = centered.mT @ centered
    gram.diagonal(dim1=1, dim2=2).zero_()
    return gram


@torch.no_grad()
def vicreg_forward(
    x: Tensor,  # [P, N, D]
    y: Tensor | None,
    settings: VICRegSettings,
    *,
    part: Part | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    p = x.shape[0]
    n, d = part or x.shape[1:]
    views = (x,) if y is None else (x, y)
    dtype = result_dtype(x.dtype)
    _, mean, var, gram = empty_results(x, y, settings, part)
    terms = x.new_zeros(4, dtype=torch.float64)
    sim, std, cov, gamma, eps, invariance, variance, covariance = settings
    with torch.autocast(x.device.type, enabled=False):
        if invariance and y is not None:
            squares = (x.to(dtype) - y.to(dtype)).square_()
            terms[1] = squares.sum(dtype=torch.float64) / (p * n * d)
        for v, z in enumerate(views if variance or covariance else ()):
            mean[v], var[v], centered = _view_moments(z, n)
            if covariance:
                gram[v] = _gram(centered, wide(n, d))
                diagonal = var[v].square().sum() if wide(n, d) else 0
                squares = torch.linalg.vector_norm(gram[v], dtype=torch.float64).square()
                terms[3] += (squares / (n - 1) ** 2 - diagonal) / (p * d)
        if variance:
            terms[2] = torch.relu(gamma - (var + eps).sqrt()).sum() / (len(views) * p * d)
        terms[0] = sim * terms[1] + std * terms[2] + cov * terms[3]
    return terms.to(dtype), mean, var, gram


@torch.no_grad()
def vicreg_backward(
    grad: Tensor,  # [4]
    x: Tensor,  # [P, N, D]
    y: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gram: Tensor,
    settings: VICRegSettings,
    need_x: bool,
    need_y: bool,
    *,
    part: Part | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    p = x.shape[0]
    n, d = part or x.shape[1:]
    views = (x,) if y is None else (x, y)
    dtype = result_dtype(x.dtype)
    sim, std, cov, gamma, eps, invariance, variance, covariance = settings
    total, *own = grad.double().unbind()
    on_invariance, on_variance, on_covariance = (
        total * coefficient + term for coefficient, term in zip((sim, std, cov), own, strict=True)
    )
    results: list[Tensor | None] = [None, None]
    with torch.autocast(x.device.type, enabled=False):
        for v, (z, needed) in enumerate(zip(views, (need_x, need_y), strict=False)):
            if not needed:
                continue
            out = z.new_zeros(z.shape, dtype=dtype)
            if variance or covariance:
                centered = center(z, mean[v])
                beta = torch.zeros_like(var[v])
            if covariance:
                scale = 4 * on_covariance / (p * d * (n - 1) ** 2)
                out += gram[v] @ centered if wide(n, d) else centered @ gram[v]
                out *= scale.to(dtype)
                if wide(n, d):
                    beta += scale * (n - 1) * var[v]
            if variance:
                sd = (var[v] + eps).sqrt()
                slope = on_variance / (len(views) * p * d * (n - 1) * sd)
                beta += torch.where(sd < gamma, slope, 0.0)
            if variance or covariance:
                out -= centered.mul_(beta.to(dtype).unsqueeze(1))
            if invariance and y is not None:
                scale = (2 * on_invariance / (p * n * d)).to(dtype)
                out += scale * (z.to(dtype) - views[1 - v].to(dtype))
            results[v] = out if part else out.to(z.dtype)
    return results[0], results[1]
