r"""Sums over pairs of class means, without a C x C matrix: CDNV and the cosines of NC2.

Both are symmetric Gram products (gram.py) of C centered means: a pair's term is computed from its
tile in registers and added up there; the sums of tiles are added in float64, in a fixed order.

**CDNV.** ``V_ij = (var_i + var_j) / (2 d_ij^2)`` with ``d_ij^2 = n_i + n_j - 2 m_i.m_j`` from means
centered by their mean g and divided by a power of two near the largest ||m_i|| (V does not change,
and fp32 neither overflows nor underflows). Operands keep 22 bits or more (``arithmetic.exact``:
three tf32 products; one tf32 product loses three digits), so d^2 is good to about
2^-20 (n_i + n_j).
A pair whose d^2 is below LOST (n_i + n_j) has lost more than four of those bits. A tile that holds
such a pair (or a V beyond fp32) is marked by an infinite sum; a second kernel, whose programs
return at once for every other tile, recomputes its pairs in float64 from differences of the means
themselves. One close pair costs as much as a whole tile of them, some 2 * 128^2 D float64
operations.

**NC2.** ``|cos_ij + 1 / (C - 1)|`` from means of unit length: an absolute error of about 2^-20.

Empty classes enter no pair. Nothing waits for the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import arithmetic, launch
from sslkernels.backends.triton.product import gram, tiles
from sslkernels.backends.triton.product.operands import store_operand

LOST = 1 / 16

_ROW_BLOCK = 512  # columns per step of the kernels over rows
_PITCH = 32  # rows of the operand are padded to whole steps of the product
_DIRECT = 16  # rows and columns of a tile that one program recomputes at a time
_DIRECT_D = 8


@launch.kernel
def pair_norms_kernel(
    mean_ptr,  # [C, D] float64
    g_ptr,  # [D] float64
    norm_ptr,  # [C] float64 out: ||mean - g||^2
    D,
    BLOCK: tl.constexpr,
):
    c = tl.program_id(0)
    mean_ptr += c.to(tl.int64) * D
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        mask = d < D
        m = tl.load(mean_ptr + d, mask=mask, other=0.0) - tl.load(g_ptr + d, mask=mask, other=0.0)
        total += m * m
    tl.store(norm_ptr + c, tl.sum(total, axis=0))


@launch.kernel
def pair_rows_kernel(
    mean_ptr,  # [C, D] float64
    g_ptr,  # [D] float64
    scale_ptr,  # [C] float64
    out_ptr,  # [planes, C, pitch] fp32 out: (mean - g) scale
    D,
    pitch,
    plane_stride,
    ROUNDING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    c = tl.program_id(0)
    mean_ptr += c.to(tl.int64) * D
    out_ptr += c.to(tl.int64) * pitch
    scale = tl.load(scale_ptr + c)
    for start in range(0, pitch, BLOCK):
        d = start + tl.arange(0, BLOCK)
        mask = d < D
        m = tl.load(mean_ptr + d, mask=mask, other=0.0) - tl.load(g_ptr + d, mask=mask, other=0.0)
        store_operand(out_ptr, d, (m * scale).to(tl.float32), d < pitch, plane_stride, ROUNDING)


@launch.kernel
def cdnv_direct_kernel(
    mean_ptr,  # [C, D] float64
    var_ptr,  # [C] float64, -1 for an empty class
    sum_ptr,  # [slots] float64: finite unless a pair lost its digits
    corner_ptr,  # [slots, 2] int32: first row and column of the slot's tile
    out_ptr,  # [slots, strips] float64 out, zero before
    C,
    D,
    BLOCK: tl.constexpr,  # columns of a tile
    SIDE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Marked tiles again: V_ij from float64 differences, SIDE rows per program."""
    slot = tl.program_id(0)
    strip = tl.program_id(1)
    if tl.load(sum_ptr + slot) < float("inf"):
        return
    top = tl.load(corner_ptr + 2 * slot) + strip * SIDE
    left = tl.load(corner_ptr + 2 * slot + 1)
    lane = tl.arange(0, SIDE)
    i = top + lane
    vi = tl.load(var_ptr + i, mask=i < C, other=-1.0)
    a_ptr = mean_ptr + top.to(tl.int64) * D
    total = tl.zeros([], tl.float64)
    for first in range(0, BLOCK, SIDE):
        corner = left + first
        # Some of these pairs must lie above the diagonal, and inside.
        if (corner + SIDE > top) & (corner < C) & (top < C):
            j = corner + lane
            vj = tl.load(var_ptr + j, mask=j < C, other=-1.0)
            b_ptr = mean_ptr + corner.to(tl.int64) * D
            d2 = tl.zeros([SIDE, SIDE], tl.float64)
            for start in range(0, D, BLOCK_D):
                d = start + tl.arange(0, BLOCK_D)
                inside = (d < D)[None, :]
                at = lane[:, None] * D + d[None, :]
                a = tl.load(a_ptr + at, mask=(i < C)[:, None] & inside, other=0.0)
                b = tl.load(b_ptr + at, mask=(j < C)[:, None] & inside, other=0.0)
                difference = a[:, None, :] - b[None, :, :]
                d2 += tl.sum(difference * difference, axis=2)
            pair = (i[:, None] < j[None, :]) & (vi != -1.0)[:, None] & (vj != -1.0)[None, :]
            ratio = tl.where(pair, 0.5 * (vi[:, None] + vj[None, :]) / d2, 0.0)
            total += tl.sum(tl.sum(ratio, axis=1), axis=0)
    tl.store(out_ptr + slot.to(tl.int64) * tl.num_programs(1) + strip, total)


def cdnv_sum(
    mean: torch.Tensor, m2: torch.Tensor, counts: torch.Tensor, cuts: tiles.Cuts = tiles.CHOSEN
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of V_ij over the pairs i < j of non-empty classes, and how many pairs there are.

    Args:
        mean: [C, D] float64, contiguous; rows of empty classes are finite.
        m2: [C] float64.
        counts: [C] int64.

    Returns:
        (float64 0-d, int64 0-d), on the device. Two classes with one mean make the sum infinite, or
        NaN if neither varies; a class with NaN in its mean makes it NaN.
    """
    with launch.on_device(mean):
        filled = counts > 0
        n = filled.sum()
        g, norm = center(mean, filled, n)
        power = scale_of(norm, filled)
        variance = (m2 / counts.clamp(min=1)).where(filled, -1.0)
        op, how, a = _operand(mean, g, power.expand_as(norm).contiguous(), cuts)
        sums = mean.new_empty(how.programs)
        corners = sums.new_empty((how.programs, 2), dtype=torch.int32)
        scaled = (variance * power * power).where(filled, -1.0).float()
        extra = ((norm * power * power).float(), scaled, sums, corners, LOST)
        gram.gram(a, "cdnv", extra, how, op.precision)
        rows = how.tile.block if how.splits == 1 else gram.SUB_ROWS
        direct = mean.new_zeros((how.programs, rows // _DIRECT))
        cdnv_direct_kernel[tuple(direct.shape)](
            mean,
            variance,
            sums,
            corners,
            direct,
            *mean.shape,
            BLOCK=how.tile.block,
            SIDE=_DIRECT,
            BLOCK_D=_DIRECT_D,
            num_warps=4,
        )
        kept = sums.where(sums.isfinite(), 0.0)
        return kept.sum() + direct.sum(), n * (n - 1) // 2


def cosine_gap_sum(
    mean: torch.Tensor, counts: torch.Tensor, cuts: tiles.Cuts = tiles.CHOSEN
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of ``|cos(m_i, m_j) + 1 / (C - 1)|`` over the pairs i < j of non-empty classes (their
    number C, their means m centered by the mean of the means), and how many pairs there are.

    Args:
        mean: [C, D] float64, contiguous; rows of empty classes are finite.
        counts: [C] int64.

    Returns:
        (float64 0-d, int64 0-d), on the device; NaN where a centered mean is zero.
    """
    with launch.on_device(mean):
        filled = counts > 0
        n = filled.sum()
        g, norm = center(mean, filled, n)
        op, how, a = _operand(mean, g, norm.rsqrt().where(filled, 0.0), cuts)
        target = (1.0 / (n - 1).clamp(min=1)).where(filled, -2.0).float()
        sums = mean.new_empty(how.programs)
        gram.gram(a, "cosine", (target, sums), how, op.precision)
        return sums.sum(), n * (n - 1) // 2


def center(
    mean: torch.Tensor, filled: torch.Tensor, n: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean of the means [D], squared distances to it [C]); ``n`` classes are ``filled``."""
    g = filled.to(mean.dtype) @ mean / n.clamp(min=1)
    norm = mean.new_empty(mean.shape[0])
    pair_norms_kernel[(mean.shape[0],)](mean, g, norm, mean.shape[1], BLOCK=_ROW_BLOCK, num_warps=4)
    return g, norm


def scale_of(norm: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
    """float64 0-d: a power of two near 1 / ||m|| of the largest mean, 1 where that is unbounded."""
    power = torch.exp2(-torch.floor(0.5 * torch.log2(norm.where(filled, 0.0).amax())))
    return power.where(power.isfinite() & (power > 0), 1.0)


def _operand(
    mean: torch.Tensor, g: torch.Tensor, scale: torch.Tensor, cuts: tiles.Cuts
) -> tuple[arithmetic.Operand, gram.Plan, torch.Tensor]:
    c, d = mean.shape
    device = launch.device_of(mean)
    op = arithmetic.exact(device)
    pitch = triton.cdiv(d, _PITCH) * _PITCH
    a = mean.new_empty((op.planes, 1, c, pitch), dtype=op.dtype)
    centered_rows(mean, g, scale, a, op)
    # 64 x 64 on AMD, where the epilogues of the larger tile spill. Whether either covers all
    # classes makes no difference worth another configuration.
    large, small = tiles.gram_candidates(op.dtype, device)
    tile = cuts.gram or (small if device.backend == "hip" else large)
    return op, gram.plan(1, c, pitch, op.segments, tile, device, cuts), a


def centered_rows(
    mean: torch.Tensor,  # [C, D] float64
    g: torch.Tensor,  # [D] float64
    scale: torch.Tensor,  # [C] float64
    out: torch.Tensor,  # [planes, .., C or more, pitch], pitch a multiple of _PITCH
    op: arithmetic.Operand,
) -> None:
    """(mean - g) scale as a product's operand."""
    pair_rows_kernel[(mean.shape[0],)](
        mean,
        g,
        scale,
        out,
        mean.shape[1],
        out.shape[-1],
        out.stride(0),
        ROUNDING=op.rounding,
        BLOCK=_ROW_BLOCK,
        num_warps=4,
    )
