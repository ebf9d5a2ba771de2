"""A plain product A B^T with a contraction that may be split: what the gradients of NT-Xent and
SIGReg end in. Operands and accuracy: ``gram.py``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import arithmetic, launch
from sslkernels.backends.triton.product import gram as symmetric
from sslkernels.backends.triton.product import tiles


@launch.kernel
def product_kernel(
    a_ptr,  # [planes, N, R], R contiguous
    b_ptr,  # [planes, D, R]
    out_ptr,  # fp32 [splits, N, D], splits out_plane apart
    N,
    D,
    R,
    GROUP,
    per_split,  # steps of the contraction per program
    out_plane,
    stride_am,
    stride_bm,
    a_plane,
    b_plane,
    SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    R = R // VEC * VEC
    stride_am = stride_am // VEC * VEC
    stride_bm = stride_bm // VEC * VEC
    # GROUP tile rows share the columns' operand in the L2 cache.
    pid = tl.program_id(0)
    col_tiles = tl.cdiv(D, BLOCK_D)
    top = pid // (GROUP * col_tiles) * GROUP
    height = tl.minimum(tl.cdiv(N, BLOCK_N) - top, GROUP)
    within = pid % (GROUP * col_tiles)
    top = (top + within % height).to(tl.int64) * BLOCK_N
    left = within // height * BLOCK_D
    first = tl.program_id(1) * per_split
    last = tl.minimum(first + per_split, SEGMENTS * tl.cdiv(R, BLOCK_R))
    acc = symmetric.accumulate(
        a_ptr + top * stride_am,
        b_ptr + left.to(tl.int64) * stride_bm,
        *(N - top, D - left, stride_am, stride_bm),
        *(a_plane // VEC * VEC, b_plane // VEC * VEC, R, first, last),
        *(SEGMENTS, PRECISION, BLOCK_N, BLOCK_D, BLOCK_R),
    )
    r = tl.arange(0, BLOCK_N)[:, None]
    c = tl.arange(0, BLOCK_D)[None, :]
    out_ptr += tl.program_id(1).to(tl.int64) * out_plane + top * D + left
    tl.store(out_ptr + (r * D + c), acc, mask=(r < N - top) & (c < D - left))


def splits(
    n: int,
    d: int,
    r: int,
    op: arithmetic.Operand,
    device: launch.Device,
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> int:
    """Into how many parts :func:`product` cuts the contraction."""
    tile = cuts.backward or tiles.product(n, d, op.dtype, device)
    count = triton.cdiv(n, tile.block_n) * triton.cdiv(d, tile.block_d)
    steps = op.segments * triton.cdiv(r, tile.block_r)
    per_split = triton.cdiv(steps, cuts.splits or tiles.splits(count, steps, device))
    return triton.cdiv(steps, per_split)


def product(
    a: torch.Tensor,  # [planes, N, R], R contiguous and a multiple of 16
    b: torch.Tensor,  # [planes, D, R]
    out: torch.Tensor,  # fp32 [splits, N, D], rows contiguous: parts for the caller to add in order
    op: arithmetic.Operand,
    device: launch.Device,
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> None:
    """One launch. ``out`` has as many parts as :func:`splits` says, or for fewer rows than it was
    asked about, as many as it said then."""
    _, n, r = a.shape
    d = b.shape[1]
    tile = cuts.backward or tiles.product(n, d, op.dtype, device)
    steps = op.segments * triton.cdiv(r, tile.block_r)
    grid = (triton.cdiv(n, tile.block_n) * triton.cdiv(d, tile.block_d), out.shape[0])
    product_kernel[grid](
        a,
        b,
        out,
        n,
        d,
        r,
        cuts.group,
        triton.cdiv(steps, out.shape[0]),
        out.stride(0),
        a.stride(1),
        b.stride(1),
        a.stride(0),
        b.stride(0),
        **op.constexprs,
        **tile.constexprs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
