"""Operands of the products: centered copies of the data, and Gram matrices in the same type.

Products read a centered copy (why: ``gram.py``) in bf16 for bf16 input and in fp32 for fp32 and
fp16. It is written in the orientation whose rows run along the product's contraction, and its rows
are padded with zeros to a multiple of PAD, so that any N and D give aligned 128-bit loads.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch, numerics
from sslkernels.backends.triton.product import tiles

PAD = 16  # elements: a multiple of every 128-bit vector


@triton.jit
def store_operand(out_ptr, at, value, mask, plane_stride, ROUNDING: tl.constexpr):
    """Stores fp32 values as a product's operand; "split" (tf32) and "halves" (fp16, of values below
    65504) write hi and lo planes, hi + lo = value to 22 bits."""
    if ROUNDING == "none" or ROUNDING == "halves":
        hi = numerics.narrow(value, out_ptr.dtype.element_ty)
        tl.store(out_ptr + at, hi, mask=mask)
        if ROUNDING == "halves":
            lo = numerics.narrow(value - hi.to(tl.float32), out_ptr.dtype.element_ty)
            tl.store(out_ptr + plane_stride + at, lo, mask=mask)
    else:
        hi = numerics.round_tf32(value)
        tl.store(out_ptr + at, hi, mask=mask)
        if ROUNDING == "split":
            tl.store(out_ptr + plane_stride + at, numerics.round_tf32(value - hi), mask=mask)


@triton.jit
def load_mean(mean_ptr, cols, mask):
    """A float64 mean as hi + lo in fp32: (z - hi) - lo keeps its digits under a common offset."""
    mean = tl.load(mean_ptr + cols, mask=mask, other=0.0)
    hi = mean.to(tl.float32)
    return hi, (mean - hi).to(tl.float32)


@triton.jit
def load_centered(z_ptr, stride_zn, hi, lo, rows, cols, N, D):
    """fp32 z - mean of a tile, means as :func:`load_mean` has them; zero where there is none."""
    inside = (rows < N)[:, None] & (cols < D)[None, :]
    at = rows.to(tl.int64)[:, None] * stride_zn + cols[None, :]
    z = tl.load(z_ptr + at, mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, (z - hi[None, :]) - lo[None, :], 0.0)


@triton.jit
def store_tile(
    out_ptr,  # [N, D padded], or [D, N padded] if TRANSPOSE
    value,  # [BLOCK_N, BLOCK_D], zero past N and D
    rows,
    cols,
    N,
    D,
    stride_out,
    plane_stride,
    TRANSPOSE: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """A tile of a product's operand, the padding of its rows included."""
    if TRANSPOSE:
        at = cols.to(tl.int64)[:, None] * stride_out + rows[None, :]
        mask = (cols < D)[:, None] & (rows < stride_out)[None, :]
        store_operand(out_ptr, at, value.T, mask, plane_stride, ROUNDING)
    else:
        at = rows.to(tl.int64)[:, None] * stride_out + cols[None, :]
        mask = (rows < N)[:, None] & (cols < stride_out)[None, :]
        store_operand(out_ptr, at, value, mask, plane_stride, ROUNDING)


@triton.jit
def center_block(
    z_ptr,  # [N, D] one problem of one view, unit column stride
    stride_zn,
    hi,  # [BLOCK_D] column means
    lo,
    out_ptr,  # [N, D padded], or [D, N padded] if TRANSPOSE
    stride_out,
    plane_stride,
    rows,  # [BLOCK_N]
    cols,  # [BLOCK_D]
    N,
    D,
    TRANSPOSE: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    value = load_centered(z_ptr, stride_zn, hi, lo, rows, cols, N, D)
    store_tile(out_ptr, value, rows, cols, N, D, stride_out, plane_stride, TRANSPOSE, ROUNDING)


@launch.kernel
def operands_kernel(
    x_ptr,  # [P, N, D]
    y_ptr,
    mean_ptr,  # float64 [views, P, D]
    gram_ptr,  # fp32 [views, P, M, M], read if GRAM
    out_ptr,  # [planes, problems, N, D padded], or [planes, problems, D, N padded] if TRANSPOSE
    gram_out_ptr,  # [planes, problems, M, M padded]
    N,
    D,
    M,
    stride_xp,
    stride_xn,
    stride_yp,
    stride_yn,
    first,  # problems are numbered view by view: view * P + p; the first one here
    P,
    row_blocks,
    col_blocks,
    centers,  # row_blocks * col_blocks: programs past it copy gram
    stride_out,
    stride_outq,
    plane_stride,
    stride_gram,  # M padded
    gram_plane_stride,
    GRAM: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    ROUNDING: tl.constexpr,
    VEC: tl.constexpr,
    VEC_GRAM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAD: tl.constexpr,
):
    """Operands of a product: centered copies, and the Gram matrices in the same type."""
    D = D // VEC * VEC
    stride_out = stride_out // PAD * PAD
    plane_stride = plane_stride // PAD * PAD
    slot = tl.program_id(1).to(tl.int64)
    problem = first + slot
    pid = tl.program_id(0)
    if pid < centers:
        rows = pid // col_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
        cols = pid % col_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
        hi, lo = load_mean(mean_ptr + problem * D, cols, cols < D)
        out = out_ptr + slot * (stride_outq // PAD * PAD)
        if problem < P:
            center_block(
                x_ptr + problem * (stride_xp // VEC * VEC),
                stride_xn // VEC * VEC,
                *(hi, lo, out, stride_out, plane_stride, rows, cols, N, D, TRANSPOSE, ROUNDING),
            )
        else:
            center_block(
                y_ptr + (problem - P) * (stride_yp // VEC * VEC),
                stride_yn // VEC * VEC,
                *(hi, lo, out, stride_out, plane_stride, rows, cols, N, D, TRANSPOSE, ROUNDING),
            )
    elif GRAM:
        stride_gram = stride_gram // PAD * PAD
        gram_plane_stride = gram_plane_stride // PAD * PAD
        M = M // VEC_GRAM * VEC_GRAM
        blocks = tl.cdiv(stride_gram, BLOCK_D)
        rows = (pid - centers) // blocks * BLOCK_N + tl.arange(0, BLOCK_N)
        cols = (pid - centers) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
        at = (problem * M + rows.to(tl.int64)[:, None]) * M + cols[None, :]
        inside = (rows < M)[:, None] & (cols < M)[None, :]
        value = tl.load(gram_ptr + at, mask=inside, other=0.0)
        at = (slot * M + rows.to(tl.int64)[:, None]) * stride_gram + cols[None, :]
        mask = (rows < M)[:, None] & (cols < stride_gram)[None, :]
        store_operand(gram_out_ptr, at, value, mask, gram_plane_stride, ROUNDING)


def padded(n: int) -> int:
    return triton.cdiv(n, PAD) * PAD


def workspace(
    x: torch.Tensor, planes: int, problems: int, rows: int, stride: int, dtype: torch.dtype
) -> torch.Tensor:
    return x.new_empty((planes, problems, rows, stride), dtype=dtype)


def operands(
    x: torch.Tensor,  # [P, N, D] unit column stride
    y: torch.Tensor | None,
    mean: torch.Tensor,  # float64 [V, P, D]
    gram: torch.Tensor | None,  # fp32 [V, P, M, M]: also copied
    first: int,  # problems view * P + p from here
    out: torch.Tensor,  # [planes, problems, N, D padded] or, transposed, [.., D, N padded]
    gram_out: torch.Tensor | None,  # [planes, problems, M, M padded]
    transpose: bool,
    rounding: str,
    tile: tiles.Stream = tiles.CENTER,
) -> None:
    """Centered copies and Gram matrices as a product reads them. One launch."""
    p, n, d = x.shape
    other = x if y is None else y
    row_blocks, col_blocks = triton.cdiv(n, tile.block_n), triton.cdiv(d, tile.block_d)
    programs = row_blocks * col_blocks
    m, stride_gram, gram_plane, vec_gram = 0, 0, 0, 1
    if gram is not None and gram_out is not None:
        m, stride_gram, gram_plane = gram.shape[-1], gram_out.stride(2), gram_out.stride(0)
        # Z^T Z has D columns like z; K has N, which must not decide what is compiled.
        vec_gram = launch.vector_width(gram) if m == d and not transpose else 1
        programs += triton.cdiv(m, tile.block_n) * triton.cdiv(stride_gram, tile.block_d)
    operands_kernel[(programs, out.shape[1])](
        x,
        other,
        mean,
        mean if gram is None else gram,
        out,
        out if gram_out is None else gram_out,
        n,
        d,
        m,
        x.stride(0),
        x.stride(1),
        other.stride(0),
        other.stride(1),
        first,
        p,
        row_blocks,
        col_blocks,
        row_blocks * col_blocks,
        out.stride(2),
        out.stride(1),
        out.stride(0),
        stride_gram,
        gram_plane,
        GRAM=gram is not None,
        TRANSPOSE=transpose,
        ROUNDING=rounding,
        VEC=launch.vector_width(x, other),
        VEC_GRAM=vec_gram,
        **tile.constexprs,
        PAD=PAD,
        num_warps=tile.num_warps,
    )
