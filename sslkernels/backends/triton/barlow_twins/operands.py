"""Operands of Barlow Twins' products: both views normalized per column, and copies of the Gram
matrices. How a product reads them: ``operands.py``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch
from sslkernels.backends.triton.product import tiles
from sslkernels.backends.triton.product.operands import PAD, load_centered, load_mean, store_tile


@triton.jit
def column_factor(spread_ptr, cols, mask, N, eps, FIRST: tl.constexpr):
    """1 / sqrt(biased variance + eps), float64."""
    spread = tl.load(spread_ptr + cols, mask=mask, other=1.0)
    if FIRST:
        biased = spread * ((N - 1).to(tl.float64) / N)
        spread = 1.0 / tl.sqrt(biased + eps)
    return spread


@launch.kernel
def standardize_kernel(
    x_ptr,  # [N, D]
    y_ptr,
    mean_ptr,  # float64 [2, D]
    spread_ptr,  # float64 [2, D]: variances if FIRST, else factors
    out_ptr,  # [planes, 2, N, D padded], or [planes, 2, D, N padded] if TRANSPOSE
    columns_ptr,  # float64 [5, D] out, if FIRST: means and factors
    part_ptr,  # float64 [row blocks, D] out, if FIRST: sums of a b
    N,
    D,
    stride_xn,
    stride_yn,
    stride_out,
    stride_outv,
    plane_stride,
    eps,
    FIRST: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    ROUNDING: tl.constexpr,
    VEC: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    D = D // VEC * VEC
    stride_xn = stride_xn // VEC * VEC
    stride_yn = stride_yn // VEC * VEC
    stride_out = stride_out // PAD * PAD
    stride_outv = stride_outv // PAD * PAD
    plane_stride = plane_stride // PAD * PAD
    # On one axis: the others end at 65,535 programs.
    col_blocks = tl.cdiv(D, BLOCK_D)
    row_block = tl.program_id(0) // col_blocks
    rows = row_block * BLOCK_N + tl.arange(0, BLOCK_N)
    cols = tl.program_id(0) % col_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = cols < D
    factor_x = column_factor(spread_ptr, cols, mask, N, eps, FIRST)
    factor_y = column_factor(spread_ptr + D, cols, mask, N, eps, FIRST)
    hi, lo = load_mean(mean_ptr, cols, mask)
    x = load_centered(x_ptr, stride_xn, hi, lo, rows, cols, N, D)
    a = x * factor_x.to(tl.float32)[None, :]
    store_tile(out_ptr, a, rows, cols, N, D, stride_out, plane_stride, TRANSPOSE, ROUNDING)
    hi, lo = load_mean(mean_ptr + D, cols, mask)
    y = load_centered(y_ptr, stride_yn, hi, lo, rows, cols, N, D)
    b = y * factor_y.to(tl.float32)[None, :]
    out_ptr += stride_outv
    store_tile(out_ptr, b, rows, cols, N, D, stride_out, plane_stride, TRANSPOSE, ROUNDING)
    if FIRST:
        # Factors in float64: rounded ones would all err the same way, and 1 - c may be small.
        c = tl.sum(x * y, axis=0).to(tl.float64) * factor_x * factor_y
        tl.store(part_ptr + row_block.to(tl.int64) * D + cols, c, mask=mask)
        if row_block == 0:
            for view in tl.static_range(2):
                mean = tl.load(mean_ptr + view * D + cols, mask=mask)
                tl.store(columns_ptr + view * D + cols, mean, mask=mask)
            tl.store(columns_ptr + 2 * D + cols, factor_x, mask=mask)
            tl.store(columns_ptr + 3 * D + cols, factor_y, mask=mask)


def standardized(
    x: torch.Tensor,  # [N, D] unit column stride
    y: torch.Tensor,
    mean: torch.Tensor,  # float64 [2, D]
    spread: torch.Tensor,  # float64 [2, D]: variances, or factors without ``first``
    out: torch.Tensor,  # [planes, 2, N, D padded] or, transposed, [planes, 2, D, N padded]
    transpose: bool,
    rounding: str,
    first: tuple[torch.Tensor, torch.Tensor, float] | None = None,  # columns, sums of a b, eps
    tile: tiles.Stream = tiles.CENTER,
) -> None:
    """Normalized copies of both views; ``first`` receives means, factors and the sums of c, for
    blocks of the tile's rows. One launch."""
    n, d = x.shape
    columns, part, eps = first or (mean, mean, 0.0)
    standardize_kernel[(triton.cdiv(n, tile.block_n) * triton.cdiv(d, tile.block_d),)](
        x,
        y,
        mean,
        spread,
        out,
        columns,
        part,
        n,
        d,
        x.stride(0),
        y.stride(0),
        out.stride(2),
        out.stride(1),
        out.stride(0),
        eps,
        FIRST=first is not None,
        TRANSPOSE=transpose,
        ROUNDING=rounding,
        VEC=launch.vector_width(x, y),
        PAD=PAD,
        **tile.constexprs,
        num_warps=tile.num_warps,
    )


@launch.kernel
def matrices_kernel(
    gram_ptr,  # fp32 [2, M, M], or [1, M, M]
    out_ptr,  # [planes, 2, M, M padded]
    M,
    source,  # distance from the first matrix to the second, or 0: the same one
    turned,  # 1: the second is copied transposed
    stride_out,
    stride_outv,
    plane_stride,
    ROUNDING: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    stride_out = stride_out // PAD * PAD
    view = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    gram_ptr += view * source
    out_ptr += view * (stride_outv // PAD * PAD)
    inside = (rows < M)[:, None] & (cols < M)[None, :]
    if (view == 1) & (turned == 1):
        at = cols.to(tl.int64)[:, None] * M + rows[None, :]
        value = tl.load(gram_ptr + at, mask=inside.T, other=0.0).T
    else:
        at = rows.to(tl.int64)[:, None] * M + cols[None, :]
        value = tl.load(gram_ptr + at, mask=inside, other=0.0)
    plane_stride = plane_stride // PAD * PAD
    store_tile(out_ptr, value, rows, cols, M, M, stride_out, plane_stride, False, ROUNDING)


def matrices(
    gram: torch.Tensor,  # fp32 [2, M, M], or [1, M, M]: copied twice, the second time transposed
    out: torch.Tensor,  # [planes, 2, M, M padded]
    rounding: str,
    tile: tiles.Stream = tiles.CENTER,
) -> None:
    """One launch."""
    count, m, _ = gram.shape
    side = triton.cdiv(m, tile.block_d)
    matrices_kernel[(side, side, 2)](
        gram,
        out,
        m,
        gram.stride(0) if count == 2 else 0,
        int(count == 1),
        out.stride(2),
        out.stride(1),
        out.stride(0),
        ROUNDING=rounding,
        PAD=PAD,
        BLOCK_M=tile.block_d,
        num_warps=tile.num_warps,
    )
