"""What SIGReg's two passes share: slices, drawn on the device as ``passes/sigreg.py`` says, and
rows, both written as a product reads them; and the kernels' trigonometry.

Numbers are drawn with a float64 logarithm, which keeps its digits near 1, and fp32 angles; lengths
are float64. Slices are drawn once forward and once backward.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import arithmetic, launch
from sslkernels.backends.triton.product import operands, tiles
from sslkernels.backends.triton.product.operands import PAD, store_operand
from sslkernels.passes.sigreg import SIGRegSettings, step_beside

_HALF_TURN = tl.constexpr(math.pi)
_QUADS = 64  # quads of numbers per step
RESTART = 16  # knots after which SIGReg's kernels take an angle's functions anew


@triton.jit
def turned(turns):
    """(cos, sin) of 2 pi turns, fp32: by Taylor's series of half the angle, which is at most a
    quarter of a turn, and then doubled.

    The library's functions reduce any angle exactly, which takes memory on the stack; cases by
    quadrant take a mask for each element.
    """
    half = (turns - tl.floor(turns + 0.5)) * _HALF_TURN
    square = half * half
    sin = 1.0 - square * (1.0 / (12 * 13))
    cos = 1.0 - square * (1.0 / (11 * 12))
    for k in tl.static_range(10, 0, -2):
        sin = 1.0 - square * (1.0 / (k * (k + 1))) * sin
        cos = 1.0 - square * (1.0 / ((k - 1) * k)) * cos
    sin *= half
    return 1.0 - 2.0 * sin * sin, 2.0 * sin * cos


@triton.jit
def turn(cos, sin, cos_step, sin_step):
    """(cos, sin) of an angle and a step of it."""
    return cos * cos_step - sin * sin_step, sin * cos_step + cos * sin_step


@triton.jit
def pair_of_normals(first, second):
    """Box and Muller: two words of 32 bits to two normal numbers, float64."""
    size = (first >> 8).to(tl.float64) + 1.0
    radius = tl.sqrt(-2.0 * tl.log(size * (1.0 / 16777216.0)))
    cos, sin = turned((second >> 8).to(tl.float32) * (1.0 / 16777216.0))
    return radius * cos.to(tl.float64), radius * sin.to(tl.float64)


@triton.jit
def numbers_of(seed, step, row, first, QUADS: tl.constexpr):
    """float64 [4 QUADS]: a slice's normal numbers from the ``first`` quad on."""
    quad = (first + tl.arange(0, QUADS)).to(tl.uint32)
    zero = quad * 0
    low = zero + (step & 0xFFFFFFFF).to(tl.uint32)
    high = zero + ((step >> 32) & 0xFFFFFFFF).to(tl.uint32)
    words = tl.philox(seed, quad, zero + row.to(tl.uint32), low, high)
    n0, n1 = pair_of_normals(words[0], words[1])
    n2, n3 = pair_of_normals(words[2], words[3])
    return tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))


@launch.kernel
def slices_kernel(
    step_ptr,  # int64
    slices_ptr,  # [planes, slices and more, D padded] out
    turned_ptr,  # [planes, D, slices padded] out, if TRANSPOSE; zero before
    seed,
    D,
    stride_slice,
    slice_plane,
    stride_turned,
    turned_plane,
    TRANSPOSE: tl.constexpr,
    ROUNDING: tl.constexpr,
    PAD: tl.constexpr,
    QUADS: tl.constexpr,
):
    """One slice per program: drawn twice, for its length and for its numbers."""
    stride_slice = stride_slice // PAD * PAD
    slice_plane = slice_plane // PAD * PAD
    row = tl.program_id(0)
    step = tl.load(step_ptr)
    total = tl.zeros((4 * QUADS,), tl.float64)
    for first in range(0, D, 4 * QUADS):
        d = first + tl.arange(0, 4 * QUADS)
        numbers = numbers_of(seed, step, row, first // 4, QUADS)
        total += tl.where(d < D, numbers * numbers, 0.0)
    length = tl.sqrt(tl.sum(total))
    factor = tl.where(length > 0.0, 1.0 / length, 1.0)
    slices_ptr += row.to(tl.int64) * stride_slice
    for first in range(0, stride_slice, 4 * QUADS):
        d = first + tl.arange(0, 4 * QUADS)
        numbers = numbers_of(seed, step, row, first // 4, QUADS)
        value = tl.where(d < D, numbers * factor, 0.0).to(tl.float32)
        store_operand(slices_ptr, d, value, d < stride_slice, slice_plane, ROUNDING)
        if TRANSPOSE:
            at = d.to(tl.int64) * stride_turned + row
            store_operand(turned_ptr, at, value, d < D, turned_plane, ROUNDING)


def slices(
    step: torch.Tensor,  # int64, on the device
    out: torch.Tensor,  # [planes, slices and more, D padded]
    turned_out: torch.Tensor | None,  # [planes, D, slices padded], zero before
    num_slices: int,
    dim: int,
    seed: int,
    rounding: str,
) -> None:
    """Unit slices and, if asked for, their transpose. One launch."""
    other = out if turned_out is None else turned_out
    slices_kernel[(num_slices,)](
        step,
        out,
        other,
        seed,
        dim,
        out.stride(1),
        out.stride(0),
        other.stride(1),
        other.stride(0),
        TRANSPOSE=turned_out is not None,
        ROUNDING=rounding,
        PAD=PAD,
        QUADS=_QUADS,
        num_warps=2,
    )


class Factors(NamedTuple):
    """Whose product the projections are."""

    op: arithmetic.Operand
    tile: tiles.Gram
    slices: torch.Tensor  # [planes, slices and a tile more, D padded]
    turned: torch.Tensor  # slices again: [planes, D, slices padded], or none
    rows: torch.Tensor  # [planes, N and a tile more, D padded]


def factors(
    z: torch.Tensor,  # [N, D] unit column stride
    step: torch.Tensor,
    settings: SIGRegSettings,
    transpose: bool,  # slices turned, too
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> Factors:
    """Two launches, and one more for a step that lies on the CPU."""
    device = launch.device_of(z)
    n, d = z.shape
    op = arithmetic.operand(z.dtype, device)
    # 64 x 64 and eight warps: a tile of projections, cosines and sines of two angles and their sum
    # share the registers.
    tile = cuts.gram or tiles.gram_candidates(op.dtype, device)[1]._replace(num_warps=8)
    count, stride = settings.num_slices, operands.padded(d)
    drawn = z.new_empty((op.planes, count + tile.block, stride), dtype=op.dtype)
    turned_shape = (op.planes, d if transpose else 0, operands.padded(count))
    turned_drawn = z.new_zeros(turned_shape, dtype=op.dtype)
    also = turned_drawn if transpose else None
    slices(step_beside(z, step), drawn, also, count, d, settings.seed, op.rounding)
    rows = operands.workspace(z, op.planes, 1, n + tile.block, stride, op.dtype)
    zero = z.new_zeros((1, 1, d), dtype=torch.float64)
    operands.operands(
        *(z.unsqueeze(0), None, zero, None, 0, rows, None, False, op.rounding), cuts.center
    )
    return Factors(op, tile, drawn, turned_drawn, rows[:, 0])
