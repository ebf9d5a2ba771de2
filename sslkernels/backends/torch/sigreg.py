"""SIGReg's sums in dense torch operations, some rows at a time: the algebra of
``sslkernels/passes/sigreg.py``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslkernels.numerics.views import result_dtype
from sslkernels.passes.sigreg import SIGRegSettings, step_beside

_PROJECTIONS = 2**21  # in memory at once
_LOW = 0xFFFFFFFF


def _philox(counter: list[Tensor], seed: int) -> list[Tensor]:
    """Philox 4x32-10 on int64 tensors of 32-bit words. A product of two words may wrap to a
    negative number, whose upper half a shift and a mask still find."""
    k0, k1 = seed & _LOW, seed >> 32
    c = counter
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32 & _LOW) ^ c[1] ^ k0, p1 & _LOW, (p0 >> 32 & _LOW) ^ c[3] ^ k1, p0 & _LOW]
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c


def _slices(settings: SIGRegSettings, z: Tensor, step: Tensor) -> Tensor:
    """Unit rows [num_slices, D] in float64, on z's device."""
    dim = z.shape[1]
    quad = torch.arange(-(-dim // 4), device=z.device)
    row = torch.arange(settings.num_slices, device=z.device).unsqueeze(1)
    halves = (step_beside(z, step) >> shift & _LOW for shift in (0, 32))
    words = _philox(list(torch.broadcast_tensors(quad, row, *halves)), settings.seed)
    r = [(word >> 8).double() for word in words]
    numbers = []
    for size, turn in ((r[0], r[1]), (r[2], r[3])):
        radius = torch.log((size + 1) / 2**24).mul_(-2).sqrt_()
        angle = turn * (2 * math.pi / 2**24)
        numbers += [radius * angle.cos(), radius * angle.sin()]
    normal = torch.stack(numbers, -1).flatten(1)[:, :dim]
    length = torch.linalg.vector_norm(normal, dim=1, keepdim=True)
    return normal / torch.where(length > 0, length, 1.0)


def _knots(settings: SIGRegSettings) -> list[float]:
    spacing = settings.spacing()
    return [settings.t_min + k * spacing for k in range(settings.num_knots)]


@torch.no_grad()
def sigreg_forward(
    z: Tensor,  # [N, D]
    step: Tensor,
    settings: SIGRegSettings,
    *,
    projections: int = _PROJECTIONS,
) -> Tensor:
    dtype = result_dtype(z.dtype)
    sums = z.new_zeros((settings.num_slices, settings.num_knots, 2), dtype=torch.float64)
    with torch.autocast(z.device.type, enabled=False):
        slices = _slices(settings, z, step).to(dtype)
        for rows in z.split(max(1, projections // settings.num_slices)):
            p = rows.to(dtype) @ slices.T
            for k, t in enumerate(_knots(settings)):
                angle = t * p
                sums[:, k, 0] += angle.cos().sum(0, dtype=torch.float64)
                sums[:, k, 1] += angle.sin_().sum(0, dtype=torch.float64)
    return sums


@torch.no_grad()
def sigreg_backward(
    grad: Tensor,  # [num_slices, num_knots, 2]
    z: Tensor,  # [N, D]
    step: Tensor,
    settings: SIGRegSettings,
    *,
    projections: int = _PROJECTIONS,
) -> Tensor:
    dtype = result_dtype(z.dtype)
    out = z.new_empty(z.shape)
    chunk = max(1, projections // settings.num_slices)
    # One scale, applied last, keeps gradients as small as loss scaling makes them in range.
    largest = grad.abs().amax()
    scale = torch.where(largest > 0, largest, 1.0)
    weights = (grad / scale).to(dtype)
    with torch.autocast(z.device.type, enabled=False):
        slices = _slices(settings, z, step).to(dtype)
        for i in range(0, z.shape[0], chunk):
            p = z[i : i + chunk].to(dtype) @ slices.T
            on_p = torch.zeros_like(p)
            for k, t in enumerate(_knots(settings)):
                angle = t * p
                on_p.addcmul_(angle.cos(), weights[:, k, 1], value=t)
                on_p.addcmul_(angle.sin_(), weights[:, k, 0], value=-t)
            out[i : i + chunk] = (on_p @ slices) * scale
    return out


@torch.no_grad()
def sigreg_along(
    on_z: Tensor,  # [N, D], the tangent of z
    z: Tensor,  # [N, D]
    step: Tensor,
    settings: SIGRegSettings,
) -> Tensor:
    """The sums' derivative along ``on_z``, for forward-mode differentiation on every backend:
    sum_n t_k (a_m . on_z_n) (-sin, cos)(t_k a_m . z_n)."""
    dtype = result_dtype(z.dtype)
    along = []
    with torch.autocast(z.device.type, enabled=False):
        slices = _slices(settings, z, step).to(dtype)
        chunk = max(1, _PROJECTIONS // settings.num_slices)
        for rows, on_rows in zip(z.split(chunk), on_z.split(chunk), strict=True):
            p, on_p = rows.to(dtype) @ slices.T, on_rows.to(dtype) @ slices.T
            parts = []
            for t in _knots(settings):
                angle, on_angle = t * p, t * on_p
                parts += [-angle.sin() * on_angle, angle.cos() * on_angle]
            sums = torch.stack([part.sum(0, dtype=torch.float64) for part in parts], 1)
            along.append(sums.unflatten(1, (-1, 2)))
    return torch.stack(along).sum(0)
