"""Mean and scatter per column of unit rows, z / ||z||: two reads of z, float64 throughout.

The first read takes every row's length, the second sums columns: a program walks a stretch of rows
over BLOCK_D columns, with u its unit rows and f the first of them, ::

    dev = sum_i (u_i - f)        square = sum_i (u_i - f)^2
    mean = f + dev / n           M2 = square - dev^2 / n

and the stretches merge as in ``class_moments/``. Rows that hardly differ, which is what the
statistic is there to see, keep their digits; the memory that is read costs more than the float64
arithmetic on it. Squares of half-precision and fp32 numbers stay within float64's range.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch
from sslkernels.backends.triton.product.tiles import Stream

_ROW_BLOCK = 1024
_ROW_WARPS = 2  # 128-bit loads of half-precision rows, whatever the warp size
_TILE = Stream(16, 128, 4, 1)  # two float64 sums per element of the tile: 64 registers


@launch.kernel
def unit_lengths_kernel(
    z_ptr,  # [N, D] embeddings
    factor_ptr,  # [N] float64 out: 1 / ||z||, 0 for a row of zeros, NaN for one that is not finite
    D,
    stride_zn,
    VEC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    D = D // VEC * VEC
    row = tl.program_id(0).to(tl.int64)
    x_ptr = z_ptr + row * (stride_zn // VEC * VEC)
    squares = tl.zeros([BLOCK], tl.float64)
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + d, mask=d < D, other=0.0).to(tl.float32).to(tl.float64)
        squares += x * x
    total = tl.sum(squares, axis=0)
    factor = tl.where(total > 0, 1.0 / tl.sqrt(total), 0.0)
    tl.store(factor_ptr + row, tl.where(total < float("inf"), factor, float("nan")))


@launch.kernel
def unit_columns_kernel(
    z_ptr,  # [N, D] embeddings
    factor_ptr,  # [N] float64
    mean_ptr,  # [stretches, D] float64 out
    m2_ptr,  # [stretches, D] float64 out
    N,
    D,
    stride_zn,
    stretch,  # rows per program
    VEC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    D = D // VEC * VEC
    row_stride = (stride_zn // VEC * VEC).to(tl.int64)
    begin = tl.program_id(1).to(tl.int64) * stretch
    end = tl.minimum(begin + stretch, N)
    cols = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = cols < D
    first = tl.load(z_ptr + begin * row_stride + cols, mask=mask, other=0.0)
    first = first.to(tl.float32).to(tl.float64) * tl.load(factor_ptr + begin)
    dev = tl.zeros([BLOCK_N, BLOCK_D], tl.float64)
    square = tl.zeros([BLOCK_N, BLOCK_D], tl.float64)
    for start in range(0, stretch, BLOCK_N):
        row = begin + start + tl.arange(0, BLOCK_N)
        inside = (row < end)[:, None] & mask[None, :]
        x = tl.load(z_ptr + row[:, None] * row_stride + cols[None, :], mask=inside, other=0.0)
        factor = tl.load(factor_ptr + row, mask=row < end, other=0.0)
        unit = x.to(tl.float32).to(tl.float64) * factor[:, None]
        difference = tl.where(inside, unit - first[None, :], 0.0)
        dev += difference
        square += difference * difference
    n = (end - begin).to(tl.float64)
    total = tl.sum(dev, axis=0)
    at = tl.program_id(1).to(tl.int64) * D + cols
    tl.store(mean_ptr + at, first + total / n, mask=mask)
    tl.store(m2_ptr + at, tl.sum(square, axis=0) - total * total / n, mask=mask)


def cut_rows(programs: int, rows: int, device: launch.Device) -> int:
    """Into how many stretches to cut the rows: sixteen small programs per processor keep enough
    loads in flight; below 64 rows each, the partial sums would be what costs."""
    return max(1, min(16 * device.processors // programs, rows // 64, launch.GRID))


def unit_moments_forward(
    z: torch.Tensor, tile: Stream = _TILE, stretches: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(mean, m2)``, float64 [D] each, of ``z / ||z||`` for z [N, D]; m2 is the sum of squared
    differences to the mean. Never waits for the device. ``stretches``: into how many the rows are
    cut; chosen from the shape unless given.

    A row of zeros stays zero; one that is not finite makes everything NaN.
    """
    n, d = z.shape
    if n == 0 or d == 0:
        return z.new_zeros(d, dtype=torch.float64), z.new_zeros(d, dtype=torch.float64)
    with launch.on_device(z):
        z = launch.unit_columns(z)
        vec = launch.vector_width(z)
        factor = z.new_empty(n, dtype=torch.float64)
        unit_lengths_kernel[(n,)](
            z, factor, d, z.stride(0), VEC=vec, BLOCK=_ROW_BLOCK, num_warps=_ROW_WARPS
        )
        blocks = triton.cdiv(d, tile.block_d)
        stretches = stretches or cut_rows(blocks, n, launch.device_of(z))
        stretch = triton.cdiv(n, stretches)
        stretches = triton.cdiv(n, stretch)  # none is empty
        mean, m2 = z.new_empty((2, stretches, d), dtype=torch.float64)
        unit_columns_kernel[(blocks, stretches)](
            z,
            factor,
            mean,
            m2,
            n,
            d,
            z.stride(0),
            stretch,
            VEC=vec,
            **tile.constexprs,
            num_warps=tile.num_warps,
        )
        # The last stretch may be shorter.
        share = torch.full((stretches, 1), stretch / n, dtype=torch.float64, device=z.device)
        share[-1:] = 1 - (stretches - 1) * stretch / n
        whole = (mean * share).sum(0)
        return whole, m2.sum(0) + ((mean - whole).square_().mul_(share)).sum(0) * n
