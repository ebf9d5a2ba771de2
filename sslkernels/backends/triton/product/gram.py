r"""The symmetric Gram product A A^T by tiles of its upper triangle, with an epilogue.

A is [Q, M, K]: Q problems, K contiguous. A program accumulates one tile of A_q A_q^T in fp32 and
hands it to an epilogue (``epilogues.py``) while it is still in registers; an M x M matrix exists
only if the epilogue stores one. Tiles below the diagonal are never computed: about M^2 K operations
instead of 2 M^2 K.

**Operands.** Both come from one buffer whose contiguous dimension is the contraction, so that loads
run through shared memory asynchronously, ``wgmma`` reads both operands where they land (for 32-bit
types it takes no other orientation) and nothing passes through registers. The pass that centers
the data writes this buffer, transposed if the other side is wanted; centering while loading would
cost a trip through registers for each operand in each of the M / BLOCK tiles that read it.

**fp32.** With ``SEGMENTS = 3`` A holds two planes, hi and lo, both exact in tf32
(``operands.store_operand``), and the contraction runs over three segments, hi hi^T + hi lo^T
+ lo hi^T, as one pipelined loop. hi + lo keeps 22 bits and the dropped lo lo^T is below 2^-22:
fp32's accuracy on tensor cores.

**Few tiles.** Where the triangle has fewer tiles than the device has processors, the contraction is
split: programs store partial tiles, and :func:`gram_reduce_kernel` adds them in a fixed order and
calls the epilogue. Either way the same input gives the same bits.

One launch, or two where the contraction is split.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch, numerics
from sslkernels.backends.triton.product import tiles
from sslkernels.backends.triton.product.epilogues import finish

SUB_ROWS = 16  # rows of a tile that one program of the second stage adds up


@triton.jit
def tile_of(t, SIDE, GROUP):
    """(i, j), i <= j: the t-th of the SIDE (SIDE + 1) / 2 tiles on and above the diagonal.

    Tiles run through bands of GROUP rows, column by column within a band, so that programs that run
    together share rows and columns of A in the L2 cache. Counted from the first row on.
    """
    top = 0
    height = tl.minimum(GROUP, SIDE)
    count = height * SIDE - height * (height - 1) // 2
    while t >= count:
        t -= count
        top += height
        height = tl.minimum(GROUP, SIDE - top)
        count = height * (SIDE - top) - height * (height - 1) // 2
    # A band starts with a triangle of height columns; every later column is full.
    # In integers: the hardware's square root is not exact.
    triangle = height * (height + 1) // 2
    column = 0
    while (column + 1 < height) & ((column + 1) * (column + 2) // 2 <= t):
        column += 1
    past = t - triangle
    i = tl.where(past < 0, t - column * (column + 1) // 2, past % height)
    j = tl.where(past < 0, column, height + past // height)
    return top + i, top + j


@triton.jit
def accumulate(
    a_ptr,  # [a_rows, K] the tile's first row, K contiguous
    b_ptr,  # [b_rows, K]
    a_rows,  # rows that exist from there on; any number
    b_rows,
    stride_am,
    stride_bm,
    a_plane,  # distance from hi to lo
    b_plane,
    K,
    first,  # of BLOCK_K-wide steps, counted through all segments
    last,
    SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """fp32 [BLOCK_M, BLOCK_N]: steps [first, last) of A B^T; operands hi hi, hi lo, lo hi."""
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    a_mask = (m < a_rows)[:, None]
    b_mask = (n < b_rows)[None, :]
    steps = tl.cdiv(K, BLOCK_K)
    ks = tl.arange(0, BLOCK_K)
    a_at = m[:, None] * stride_am + ks[None, :]
    b_at = n[None, :] * stride_bm + ks[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(first, last):
        k = step * BLOCK_K
        a_from = a_ptr
        b_from = b_ptr
        if SEGMENTS == 3:
            second = (step >= steps).to(tl.int32)
            third = (step >= 2 * steps).to(tl.int32)
            k -= (second + third) * steps * BLOCK_K
            a_from += third * a_plane
            b_from += (second - third) * b_plane
        a = tl.load(a_from + k + a_at, mask=a_mask & (ks < K - k)[None, :], other=0.0)
        b = tl.load(b_from + k + b_at, mask=b_mask & (ks < K - k)[:, None], other=0.0)
        acc = numerics.dot(a, b, acc, PRECISION)
    return acc


@triton.jit
def whole_tile(
    a_ptr,  # [planes, .., K], K contiguous
    b_ptr,
    top,  # row of A
    left,  # row of B
    stride_am,
    stride_bm,
    a_plane,
    b_plane,
    K,
    SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """fp32 [BLOCK, BLOCK]: all of A B^T from a row of each on. No masks by rows: both workspaces
    have a tile more of them."""
    return accumulate(
        a_ptr + top.to(tl.int64) * stride_am,
        b_ptr + left.to(tl.int64) * stride_bm,
        *(BLOCK, BLOCK, stride_am, stride_bm, a_plane, b_plane, K),
        *(0, SEGMENTS * tl.cdiv(K, BLOCK_K), SEGMENTS, PRECISION, BLOCK, BLOCK, BLOCK_K),
    )


@launch.kernel
def gram_kernel(
    a_ptr,  # [planes, Q, M, K]
    partial_ptr,  # fp32 [splits, Q, tiles, BLOCK, BLOCK], used if SPLIT
    extra: tl.tuple,  # the epilogue's pointers and scalars
    M,
    K,  # a multiple of VEC
    first_problem,  # how the epilogue numbers problem 0
    plane_stride,
    stride_aq,
    stride_am,
    SIDE,  # tiles along one side
    GROUP,
    per_split,  # steps of the contraction per program
    EPILOGUE: tl.constexpr,
    SPLIT: tl.constexpr,
    SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    K = K // VEC * VEC
    stride_am = stride_am // VEC * VEC
    stride_aq = stride_aq // VEC * VEC
    plane_stride = plane_stride // VEC * VEC
    t = tl.program_id(0)
    problem = tl.program_id(1).to(tl.int64)
    i, j = tile_of(t, SIDE, GROUP)
    top = i * BLOCK
    left = j * BLOCK
    a_ptr += problem * stride_aq

    first = 0
    last = SEGMENTS * tl.cdiv(K, BLOCK_K)
    if SPLIT:
        first = tl.program_id(2) * per_split
        last = tl.minimum(first + per_split, last)
    acc = accumulate(
        a_ptr + top.to(tl.int64) * stride_am,
        a_ptr + left.to(tl.int64) * stride_am,
        M - top,
        M - left,
        stride_am,
        stride_am,
        plane_stride,
        plane_stride,
        K,
        first,
        last,
        SEGMENTS,
        PRECISION,
        BLOCK,
        BLOCK,
        BLOCK_K,
    )
    if SPLIT:
        at = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + problem
        at = (at * tl.num_programs(0) + t) * BLOCK * BLOCK
        r = tl.arange(0, BLOCK)
        tl.store(partial_ptr + at + r[:, None] * BLOCK + r[None, :], acc)
    else:
        problem += first_problem
        slot = problem * tl.num_programs(0) + t
        finish(acc, top, left, problem, slot, i != j, M, extra, EPILOGUE)


@launch.kernel
def gram_reduce_kernel(
    partial_ptr,  # fp32 [splits, Q, tiles, BLOCK, BLOCK]
    extra: tl.tuple,
    M,
    first_problem,
    SIDE,
    GROUP,
    splits,
    EPILOGUE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The second stage: ROWS rows of one tile, added over the splits in order."""
    PIECES: tl.constexpr = BLOCK // ROWS
    piece = tl.program_id(0) % PIECES
    t = tl.program_id(0) // PIECES
    problem = tl.program_id(1).to(tl.int64)
    i, j = tile_of(t, SIDE, GROUP)

    count = tl.num_programs(0) // PIECES
    r = piece * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    at = (problem * count + t) * BLOCK * BLOCK
    ptrs = partial_ptr + at + r[:, None] * BLOCK + c[None, :]
    step = tl.num_programs(1).to(tl.int64) * count * BLOCK * BLOCK
    acc = tl.zeros((ROWS, BLOCK), tl.float32)
    for s in range(splits):
        acc += tl.load(ptrs + s * step)
    problem += first_problem
    slot = problem * tl.num_programs(0) + tl.program_id(0)
    top = i * BLOCK + piece * ROWS
    finish(acc, top, j * BLOCK, problem, slot, i != j, M, extra, EPILOGUE)


class Plan(NamedTuple):
    """How one Gram product is launched."""

    tile: tiles.Gram
    side: int
    tiles: int
    splits: int
    per_split: int
    group: int

    @property
    def programs(self) -> int:
        """Slots per problem: how many partial sums the epilogue writes."""
        return self.tiles * (self.tile.block // SUB_ROWS if self.splits > 1 else 1)


def plan(
    problems: int,
    m: int,
    k: int,
    segments: int,
    tile: tiles.Gram,
    device: launch.Device,
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> Plan:
    side = triton.cdiv(m, tile.block)
    count = side * (side + 1) // 2
    steps = segments * triton.cdiv(k, tile.block_k)
    splits = cuts.splits or tiles.splits(problems * count, steps, device)
    per_split = triton.cdiv(steps, splits)
    return Plan(tile, side, count, triton.cdiv(steps, per_split), per_split, cuts.group)


def gram(
    a: torch.Tensor,  # [planes, Q, M, K] operands, K contiguous and a multiple of the vector width
    epilogue: str,  # by its name in epilogues.py
    extra: tuple[Any, ...],
    how: Plan,
    precision: str,
    first_problem: int = 0,
) -> None:
    """Launches the product; ``how`` is :func:`plan`'s answer for the same sizes.

    The epilogue sees problems, and with them slots, numbered from ``first_problem`` on. Scalars in
    ``extra`` are best floats: Triton compiles anew for an int that is 1 or a multiple of 16.
    """
    planes, problems, m, k = a.shape
    segments = 2 * planes - 1
    partial = a.new_empty(0, dtype=torch.float32)
    if how.splits > 1:
        size = how.splits * problems * how.tiles * how.tile.block**2
        partial = a.new_empty(size, dtype=torch.float32)
    gram_kernel[(how.tiles, problems, how.splits)](
        a,
        partial,
        extra,
        m,
        k,
        first_problem,
        a.stride(0),
        a.stride(1),
        a.stride(2),
        how.side,
        how.group,
        how.per_split,
        EPILOGUE=epilogue,
        SPLIT=how.splits > 1,
        SEGMENTS=segments,
        PRECISION=precision,
        VEC=launch.vector_width(a),
        **how.tile.constexprs,
        num_warps=how.tile.num_warps,
        num_stages=how.tile.num_stages,
    )
    if how.splits > 1:
        gram_reduce_kernel[(how.programs, problems)](
            partial,
            extra,
            m,
            first_problem,
            how.side,
            how.group,
            how.splits,
            EPILOGUE=epilogue,
            BLOCK=how.tile.block,
            ROWS=SUB_ROWS,
            num_warps=4,
        )
