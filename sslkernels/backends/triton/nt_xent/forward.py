r"""NT-Xent on a GPU: the passes of ``passes/nt_xent.py``, whose docstring has the mathematics.

Launches. Forward: unit rows [1], tiles of logits [1], their merge [1], the terms [1]. Backward
(``gradient.py``): unit rows [1], two for each chunk of rows, the rows' gradients [1].

**Logits.** A program takes BLOCK own rows and streams the columns of its split, keeping of each row
the maximum and the sum of exponentials in registers; the positive is left out of both and kept
beside them. A 2N x 2N matrix exists nowhere. Logits are taken in base 2 and relative to the largest
cosine there is: ``t = (u_i . u_j - 1) log2(e) / temperature`` is one fused multiply and add, never
above about 0, and keeps the digits of cosines near 1, which a low temperature magnifies. Splits
merge in float64 in a fixed order: no atomics, the same input gives the same bits.

**Accuracy.** Norms are float64, products accumulate in fp32, sums of exponentials in fp32 within
a split and float64 across. Unit rows enter the products as ``arithmetic.operand`` says: bf16 for
bf16, tf32 for fp16 and "high" fp32 (cosines then err by about 2^-12 / sqrt(D)), 22 bits at
"highest".

Extra memory, with b bytes per element of an operand (2 for bf16; 4 for fp16 and fp32, 8 for fp32 at
"highest"): b (2N) D for the unit rows; backward as much again for their transpose, a workspace for
some rows of weights (32 MiB, or 128 rows of 2N if that is more), and a few times 4 D per own row.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import arithmetic, launch, tuning
from sslkernels.backends.triton.nt_xent.gradient import nt_xent_backward
from sslkernels.backends.triton.nt_xent.rows import own_stretches, unit_rows, unit_workspace
from sslkernels.backends.triton.nt_xent.tiles import column_splits, logit_tiles
from sslkernels.backends.triton.product import gram as symmetric
from sslkernels.backends.triton.product import tiles
from sslkernels.backends.triton.vicreg.forward import sum_of

__all__ = ["nt_xent_backward", "nt_xent_forward"]

_MERGE = 128  # rows per program of the second stage
_LOG2E = tl.constexpr(math.log2(math.e))
_LN2 = tl.constexpr(math.log(2.0))


@triton.jit
def take_out(t, ahead, columns, N):
    """A tile with -inf for the diagonal, the positives and what lies past the last column; and the
    positives by row. The tile's corner lies ``ahead`` of the diagonal."""
    c = tl.arange(0, t.shape[1])
    apart = tl.abs((ahead + c)[None, :] - tl.arange(0, t.shape[0])[:, None])
    apart = tl.where((c < columns)[None, :], apart, 0)
    pair = apart == N  # the other view of the same sample
    positive = tl.sum(tl.where(pair, t, 0.0), axis=1)
    return tl.where(pair | (apart == 0), float("-inf"), t), positive


@launch.kernel
def nt_xent_forward_kernel(
    unit_ptr,  # [planes, M and more, K] unit rows, padded
    part_ptr,  # fp32 [splits, 3, own rows] out: maximum, sum and positive of the split's logits
    N,
    M,  # 2 N
    K,
    first,  # own rows: of `length` rows from here, or also of those from N further on
    length,
    own,  # rows in all
    stride_unit,
    unit_plane,
    per_split,  # tiles of columns per program
    scale,  # log2(e) / temperature
    SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    K = K // VEC * VEC
    stride_unit = stride_unit // VEC * VEC
    unit_plane = unit_plane // VEC * VEC
    tiles = tl.cdiv(length, BLOCK)
    stretch = tl.program_id(0) // tiles
    begin = tl.program_id(0) % tiles * BLOCK
    top = first + stretch * N + begin
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    positive = tl.zeros((BLOCK,), tl.float32)
    start = tl.program_id(1) * per_split
    for tile in range(start, tl.minimum(start + per_split, tl.cdiv(M, BLOCK))):
        left = tile * BLOCK
        acc = symmetric.whole_tile(
            *(unit_ptr, unit_ptr, top, left, stride_unit, stride_unit, unit_plane, unit_plane),
            *(K, SEGMENTS, PRECISION, BLOCK, BLOCK_K),
        )
        t = acc * scale - scale
        # Few tiles hold the diagonal, positives or the end.
        apart = tl.abs(left - top)
        if (apart < BLOCK) | (tl.abs(apart - N) < BLOCK) | (left + BLOCK > M):
            t, more = take_out(t, left - top, M - left, N)
            positive += more
        higher = tl.maximum(highest, tl.max(t, axis=1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp2(highest - shift) + tl.sum(tl.exp2(t - shift[:, None]), axis=1)
        highest = higher
    rows = begin + tl.arange(0, BLOCK)
    part_ptr += tl.program_id(1).to(tl.int64) * 3 * own + stretch * length
    tl.store(part_ptr + rows, highest, mask=rows < length)
    tl.store(part_ptr + own + rows, total, mask=rows < length)
    tl.store(part_ptr + 2 * own + rows, positive, mask=rows < length)


@launch.kernel
def nt_xent_merge_kernel(
    part_ptr,  # fp32 [splits, 3, M]
    rows_ptr,  # float64 [2, M] out: log-sum-exp, and that less the positive
    sums_ptr,  # float64 [3, programs] out: of losses, positives, log-sum-exps
    M,
    splits,
    inverse,  # 1 / temperature
    BLOCK: tl.constexpr,
):
    """The second stage: splits in order, in float64."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = rows < M
    highest = tl.full((BLOCK,), float("-inf"), tl.float64)
    total = tl.zeros((BLOCK,), tl.float64)
    positive = tl.zeros((BLOCK,), tl.float64)
    for s in range(splits):
        at = s * 3 * M.to(tl.int64) + rows
        own = tl.load(part_ptr + at, mask=mask, other=float("-inf")).to(tl.float64)
        higher = tl.maximum(highest, own)
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        more = tl.load(part_ptr + M + at, mask=mask, other=0.0).to(tl.float64)
        total = total * tl.exp2(highest - shift) + more * tl.exp2(own - shift)
        positive += tl.load(part_ptr + 2 * M + at, mask=mask, other=0.0).to(tl.float64)
        highest = higher
    # log(1 + rest / positive) by the larger of both; no rest leaves a gap of -inf.
    gap = (highest + tl.log2(total) - positive) * _LN2
    ratio = tl.exp(-tl.abs(gap))
    above = 1.0 + ratio
    small = tl.where(above == 1.0, ratio, tl.log(above) * (ratio / (above - 1.0)))  # log1p(ratio)
    loss = tl.where(gap > 0.0, gap, 0.0) + small
    logit = positive * _LN2 + inverse
    lse = logit + loss
    tl.store(rows_ptr + rows, lse, mask=mask)
    tl.store(rows_ptr + M.to(tl.int64) + rows, loss, mask=mask)
    at = sums_ptr + tl.program_id(0)
    count = tl.num_programs(0)
    tl.store(at, tl.sum(tl.where(mask, loss, 0.0)))
    tl.store(at + count, tl.sum(tl.where(mask, logit, 0.0)))
    tl.store(at + 2 * count, tl.sum(tl.where(mask, lse, 0.0)))


@launch.kernel
def nt_xent_terms_kernel(
    sums_ptr,  # float64 [3, count]
    terms_ptr,  # fp32 [3] out: loss, alignment, uniformity
    count,
    M,
    BLOCK: tl.constexpr,
):
    tl.store(terms_ptr, (sum_of(sums_ptr, count, BLOCK) / M).to(tl.float32))
    tl.store(terms_ptr + 1, (-sum_of(sums_ptr + count, count, BLOCK) / M).to(tl.float32))
    tl.store(terms_ptr + 2, (sum_of(sums_ptr + 2 * count, count, BLOCK) / M).to(tl.float32))


def nt_xent_forward(
    x: torch.Tensor,  # [N, D]
    y: torch.Tensor,
    temperature: float,
    own: tuple[int, int] | None = None,
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> tuple[torch.Tensor, torch.Tensor]:
    with launch.on_device(x):
        device = launch.device_of(x)
        x, y = launch.unit_columns(x), launch.unit_columns(y)
        n, d = x.shape
        m = 2 * n
        stretches = own_stretches(n, own)
        first, length = stretches[0]
        count = len(stretches) * length
        op = arithmetic.operand(x.dtype, device)
        units = unit_workspace(x, op)
        unit_rows(x, y, units, None, op.rounding, cuts)
        rows = x.new_empty((2, count), dtype=torch.float64)
        blocks = triton.cdiv(count, _MERGE)
        sums = x.new_empty((3, blocks), dtype=torch.float64)
        terms = x.new_empty(3, dtype=torch.float32)

        def logits(tile: tiles.Gram) -> tuple[torch.Tensor, int]:
            down = len(stretches) * triton.cdiv(length, tile.block)
            across = triton.cdiv(m, tile.block)
            parts = cuts.splits or column_splits(down, across, device)
            per_split = triton.cdiv(across, parts)
            splits = triton.cdiv(across, per_split)
            part = x.new_empty((splits, 3, count), dtype=torch.float32)
            nt_xent_forward_kernel[(down, splits)](
                units,
                part,
                n,
                m,
                units.shape[2],
                first,
                length,
                count,
                units.stride(1),
                units.stride(0),
                per_split,
                math.log2(math.e) / temperature,
                **op.constexprs,
                **tile.constexprs,
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
            return part, splits

        key = ("nt_xent", x.device, tuning.bucket(count), tuning.bucket(m), d, op)
        choice = (cuts.gram,) if cuts.gram else logit_tiles(count, m, op, device)
        part, splits = logits(tuning.pick(choice, key, logits))
        nt_xent_merge_kernel[(blocks,)](
            part, rows, sums, count, splits, 1.0 / temperature, BLOCK=_MERGE, num_warps=4
        )
        nt_xent_terms_kernel[(1,)](sums, terms, blocks, count, BLOCK=1024, num_warps=4)
    return terms, rows
