r"""The gradient of SIGReg's sums; mathematics in ``passes/sigreg.py``, the rest in ``forward.py``.

With q_nm = sum_k t_k (h_mk cos(t_k p_nm) - g_mk sin(t_k p_nm)) the gradient is q A, A the slices:
for as many rows at a time as stay in the L2 cache, tiles of projections become q in registers, q is
written as a product's operand, and multiplied from there.

The gradient of the sums is divided by its largest entry, which the result is multiplied by: numbers
stay in range however small loss scaling makes them.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch, numerics
from sslkernels.backends.triton.product import gram as symmetric
from sslkernels.backends.triton.product import operands, tiles
from sslkernels.backends.triton.product import plain as products
from sslkernels.backends.triton.sigreg.slices import RESTART, factors, turn, turned
from sslkernels.passes.sigreg import SIGRegSettings


@launch.kernel
def sigreg_weights_kernel(
    z_ptr,  # [planes, N and more, K], padded
    slices_ptr,  # [planes, slices and more, K]
    weights_ptr,  # fp32 [knots, 2, pitch]: t_k g, t_k h
    out_ptr,  # [planes, N, M padded] out: q
    N,
    M,  # slices
    K,
    knots,
    stride_slice,
    slice_plane,
    stride_z,
    z_plane,
    pitch,
    stride_out,
    out_plane,
    first_turns,  # t_min / (2 pi)
    step_turns,  # dt / (2 pi)
    RESTART: tl.constexpr,
    SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROUNDING: tl.constexpr,
    VEC: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    K = K // VEC * VEC
    stride_slice = stride_slice // VEC * VEC
    stride_z = stride_z // VEC * VEC
    top = tl.program_id(1) * BLOCK
    left = tl.program_id(0) * BLOCK
    p = symmetric.whole_tile(
        *(z_ptr, slices_ptr, top, left, stride_z, stride_slice),
        *(z_plane // VEC * VEC, slice_plane // VEC * VEC, K, SEGMENTS, PRECISION, BLOCK, BLOCK_K),
    )
    cols = left + tl.arange(0, BLOCK)
    mask = cols < M
    q = tl.zeros((BLOCK, BLOCK), tl.float32)
    cos_step, sin_step = turned(p * step_turns)
    for start in range(0, knots, RESTART):
        cos, sin = turned(p * (first_turns + start * step_turns))
        for k in range(start, tl.minimum(start + RESTART, knots)):
            g = tl.load(weights_ptr + 2 * k * pitch + cols, mask=mask, other=0.0)
            h = tl.load(weights_ptr + (2 * k + 1) * pitch + cols, mask=mask, other=0.0)
            q += h[None, :] * cos - g[None, :] * sin
            cos, sin = turn(cos, sin, cos_step, sin_step)
    # What lies past the last slice was projected on nothing: it may be NaN.
    q = tl.where(mask[None, :], q, 0.0)
    stride_out = stride_out // PAD * PAD
    r = tl.arange(0, BLOCK)
    out_ptr += top.to(tl.int64) * stride_out + left
    inside = (r < N - top)[:, None] & (cols < stride_out)[None, :]
    at = r[:, None] * stride_out + r[None, :]
    operands.store_operand(out_ptr, at, q, inside, out_plane // PAD * PAD, ROUNDING)


@launch.kernel
def sigreg_finish_kernel(
    part_ptr,  # fp32 [splits, size], splits ``plane`` apart
    scale_ptr,  # float64
    out_ptr,  # [size] out
    size,
    splits,
    plane,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for s in range(splits):
        total += tl.load(part_ptr + s * plane.to(tl.int64) + at, mask=at < size, other=0.0)
    out = (total.to(tl.float64) * tl.load(scale_ptr)).to(tl.float32)
    tl.store(out_ptr + at, numerics.narrow(out, out_ptr.dtype.element_ty), mask=at < size)


def sigreg_backward(
    grad: torch.Tensor,  # [num_slices, num_knots, 2]
    z: torch.Tensor,  # [N, D]
    step: torch.Tensor,
    settings: SIGRegSettings,
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> torch.Tensor:
    num_slices, num_knots, t_min, *_ = settings
    with launch.on_device(z):
        device = launch.device_of(z)
        out = z.new_empty(z.shape)
        z = launch.unit_columns(z)
        op, tile, directions, turned_directions, copy = factors(z, step, settings, True, cuts)
        n, d = z.shape
        pitch = operands.padded(num_slices)

        distance = settings.spacing()
        largest = grad.abs().amax()
        scale = torch.where(largest > 0, largest, 1.0)
        knots = torch.arange(num_knots, dtype=torch.float64, device=z.device)
        knots = knots.mul_(distance).add_(t_min)
        weights = z.new_empty((num_knots, 2, pitch), dtype=torch.float32)
        weights[..., :num_slices] = (grad / scale * knots[:, None]).permute(1, 2, 0)

        row_bytes = op.planes * pitch * op.dtype.itemsize
        # Of q, and of its product.
        at_once = min(n, cuts.at_once or tiles.rows_at_once(max(row_bytes, 4 * d)))
        q = z.new_empty((op.planes, at_once, pitch), dtype=op.dtype)
        splits = products.splits(at_once, d, pitch, op, device, cuts)
        part = z.new_empty((splits, at_once, d), dtype=torch.float32)
        for first in range(0, n, at_once):
            count = min(at_once, n - first)
            rows = copy[:, first:]
            grid = (triton.cdiv(num_slices, tile.block), triton.cdiv(count, tile.block))
            sigreg_weights_kernel[grid](
                rows,
                directions,
                weights,
                q,
                count,
                num_slices,
                copy.shape[2],
                num_knots,
                directions.stride(1),
                directions.stride(0),
                rows.stride(1),
                rows.stride(0),
                pitch,
                q.stride(1),
                q.stride(0),
                t_min / (2 * math.pi),
                distance / (2 * math.pi),
                RESTART=RESTART,
                **op.constexprs,
                ROUNDING=op.rounding,
                PAD=operands.PAD,
                **tile.constexprs,
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
            products.product(q[:, :count], turned_directions, part[:, :count], op, device, cuts)
            sigreg_finish_kernel[(triton.cdiv(count * d, 1024),)](
                part,
                scale,
                out[first:],
                count * d,
                splits,
                part.stride(0),
                BLOCK=1024,
                num_warps=4,
            )
    return out
