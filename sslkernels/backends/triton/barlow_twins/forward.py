r"""Barlow Twins on a GPU: the passes of ``passes/barlow_twins.py``, whose docstring has the
mathematics.

Launches. Forward: column moments [1; where rows are split over programs 2], normalized operands and
the sums of c [1], the product [1; where the contraction is split 2 on the N x N side], its reading
[1], columns [1], terms [1]. Backward (``barlow_twins_gradient.py``): operands [2], one product for
each view, and three passes over the gradient by the normalized columns: its projection on the
columns, as batch normalization has it, needs sums over all of its rows.

The N x N side takes two symmetric products (``gram.py``, both views in one launch); the D x D side
one product, whose parts are added where its squares are summed.

**Accuracy.** Moments, c and sums across tiles are float64; products accumulate in fp32 from
operands as ``arithmetic.operand`` has them: normalized columns, and in backward the Gram matrices,
are rounded once, to bf16 for bf16, to tf32 for fp16 and "high" fp32, to 22 bits at "highest".

Extra memory, with R = min(N, D) and b bytes per element of an operand (2 for bf16; 4 for fp16 and
fp32, 8 for fp32 at "highest"): 2 b N D; on the D x D side 4 R^2 per part of a split contraction;
backward 2 b (N D + R^2) and 4 N D for each view and part. Nothing is D x D when N < D.

No atomics, no host synchronisation: bitwise repeatable and capturable.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.barlow_twins.gradient import barlow_twins_backward
from sslkernels.backends.triton.barlow_twins.operands import standardized
from sslkernels.backends.triton.core import arithmetic, launch, tuning
from sslkernels.backends.triton.product import gram as symmetric
from sslkernels.backends.triton.product import operands, tiles
from sslkernels.backends.triton.product import plain as products
from sslkernels.backends.triton.product.column_moments import column_moments
from sslkernels.backends.triton.vicreg.forward import sum_of
from sslkernels.numerics.views import wide as takes_rows
from sslkernels.passes.vicreg import Part

__all__ = ["barlow_twins_backward", "barlow_twins_forward"]


@launch.kernel
def barlow_twins_columns_kernel(
    part_ptr,  # float64 [blocks, D]: sums of a b over blocks of rows
    c_ptr,  # float64 [D] out: the diagonal of C
    sums_ptr,  # float64 [2, programs] out: of (c - 1)^2 and of c^2
    D,
    N,
    blocks,
    BLOCK_D: tl.constexpr,
):
    cols = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = cols < D
    c = tl.zeros((BLOCK_D,), tl.float64)
    for block in range(blocks):
        c += tl.load(part_ptr + block * D.to(tl.int64) + cols, mask=mask, other=0.0)
    c /= N
    tl.store(c_ptr + cols, c, mask=mask)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(mask, (c - 1.0) * (c - 1.0), 0.0)))
    tl.store(sums_ptr + tl.num_programs(0) + tl.program_id(0), tl.sum(c * c))


@launch.kernel
def gram_inner_kernel(
    gram_ptr,  # fp32 [2, M, M]
    sums_ptr,  # float64 [programs] out: sums of K_a K_b
    M,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    size = M.to(tl.int64) * M
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros((BLOCK_M,), tl.float64)
    for left in range(0, M, BLOCK_N):
        cols = left + tl.arange(0, BLOCK_N)
        at = rows.to(tl.int64)[:, None] * M + cols[None, :]
        mask = (rows < M)[:, None] & (cols < M)[None, :]
        a = tl.load(gram_ptr + at, mask=mask, other=0.0)
        b = tl.load(gram_ptr + size + at, mask=mask, other=0.0)
        total += tl.sum(a * b, axis=1).to(tl.float64)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(total))


@launch.kernel
def correlation_kernel(
    part_ptr,  # fp32 [splits, D, D]: parts of N C
    gram_ptr,  # fp32 [D, D] out: C with a diagonal of zeros
    sums_ptr,  # float64 [programs] out: sums of its squares
    D,
    splits,
    inverse,  # 1 / N
    VEC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    D = D // VEC * VEC
    size = D.to(tl.int64) * D
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    squares = tl.zeros((BLOCK_M,), tl.float64)
    for left in range(0, D, BLOCK_N):
        cols = left + tl.arange(0, BLOCK_N)
        at = rows.to(tl.int64)[:, None] * D + cols[None, :]
        mask = (rows < D)[:, None] & (cols < D)[None, :]
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for s in range(splits):
            total += tl.load(part_ptr + s * size + at, mask=mask, other=0.0)
        c = tl.where(rows[:, None] == cols[None, :], 0.0, total * inverse)
        tl.store(gram_ptr + at, c, mask=mask)
        squares += tl.sum(c * c, axis=1).to(tl.float64)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(squares))


@launch.kernel
def barlow_twins_terms_kernel(
    sums_ptr,  # float64 [2, blocks]: (c - 1)^2, c^2
    squares_ptr,  # float64 [slots]: K_a K_b if wide, else squares off C's diagonal
    terms_ptr,  # fp32 [3] out: loss, on_diagonal, off_diagonal
    blocks,
    slots,
    N,
    wide,
    lambda_,
    BLOCK: tl.constexpr,
):
    on_diagonal = sum_of(sums_ptr, blocks, BLOCK)
    off_diagonal = sum_of(squares_ptr, slots, BLOCK)
    if wide:
        rows = N.to(tl.float64)
        off_diagonal = off_diagonal / (rows * rows) - sum_of(sums_ptr + blocks, blocks, BLOCK)
    tl.store(terms_ptr, (on_diagonal + lambda_ * off_diagonal).to(tl.float32))
    tl.store(terms_ptr + 1, on_diagonal.to(tl.float32))
    tl.store(terms_ptr + 2, off_diagonal.to(tl.float32))


def barlow_twins_forward(
    x: torch.Tensor,  # [N, D]
    y: torch.Tensor,
    lambda_: float,
    eps: float,
    cuts: tiles.Cuts = tiles.CHOSEN,
    *,
    part: Part | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with launch.on_device(x):
        device = launch.device_of(x)
        x, y = launch.unit_columns(x), launch.unit_columns(y)
        n, d = x.shape
        wide = takes_rows(*(part or (n, d)))
        side, depth = (n, d) if wide else (d, n)
        op = arithmetic.operand(x.dtype, device)
        mean, var, _ = column_moments(x.unsqueeze(0), y.unsqueeze(0), 0.0, 0.0, device, cuts=cuts)
        if n == 1:  # of a part: 0 / 0
            var = torch.zeros_like(var)
        columns = x.new_empty((5, d), dtype=torch.float64)
        copy = operands.workspace(x, op.planes, 2, side, operands.padded(depth), op.dtype)
        partial = x.new_empty((triton.cdiv(n, cuts.center.block_n), d), dtype=torch.float64)
        first = (columns, partial, eps)
        standardized(x, y, mean, var, copy, not wide, op.rounding, first, cuts.center)

        blocks = triton.cdiv(d, 128)
        sums = x.new_empty((2, blocks), dtype=torch.float64)
        barlow_twins_columns_kernel[(blocks,)](
            partial, columns[4], sums, d, n, partial.shape[0], BLOCK_D=128, num_warps=4
        )
        gram = x.new_empty((2 if wide else 1, side, side), dtype=torch.float32)
        tile = cuts.rows or tiles.ROWS
        slots = triton.cdiv(side, tile.block_n)
        squares = x.new_empty(slots, dtype=torch.float64)
        blocks_of = {"BLOCK_M": tile.block_n, "BLOCK_N": tile.block_d}
        if wide:

            def grams(tile: tiles.Gram) -> None:
                how = symmetric.plan(2, n, depth, op.segments, tile, device, cuts)
                # What is summed here, squares of one matrix, is not what the loss needs.
                unused = x.new_empty(2 * how.programs, dtype=torch.float64)
                extra = (gram, unused, 1.0, 1.0)
                symmetric.gram(copy, "squares", extra, how, op.precision)

            key = ("barlow_twins", x.device, tuning.bucket(n), d, op)
            choice = (cuts.gram,) if cuts.gram else tiles.gram(n, op.dtype, device)
            grams(tuning.pick(choice, key, grams))
            gram_inner_kernel[(slots,)](gram, squares, n, **blocks_of, num_warps=4)
        else:
            parts = products.splits(d, d, copy.shape[3], op, device, cuts)
            correlation = x.new_empty((parts, d, d), dtype=torch.float32)
            products.product(copy[:, 0], copy[:, 1], correlation, op, device, cuts)
            correlation_kernel[(slots,)](
                correlation,
                gram,
                squares,
                d,
                parts,
                1.0 / n,
                VEC=launch.vector_width(correlation),
                **blocks_of,
                num_warps=4,
            )
        terms = x.new_empty(3, dtype=torch.float32)
        barlow_twins_terms_kernel[(1,)](
            sums, squares, terms, blocks, slots, n, int(wide), lambda_, BLOCK=1024, num_warps=4
        )
    return terms, columns, gram
