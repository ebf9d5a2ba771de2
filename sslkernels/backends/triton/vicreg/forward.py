r"""VICReg on a GPU: the passes of ``passes/vicreg.py``, whose docstring has the mathematics.

Launches. Forward: column moments, which write the centered copies in passing [1; where rows are
split over programs 2, and 1 for the copies], Gram with the squares epilogue [1; where the
contraction is split 2], the terms [1]. Backward: operands [1], one product with the fused epilogue
[1]. So 3 + 2 launches for a middling size, 4 + 2 for (256, 8192), whose Gram matrix has too few
tiles to fill a GPU.

Problems too large to keep their operands in the L2 cache take turns in one workspace
(``problems_at_once``), each with its own launches for operands and product. Extra memory,
with R = min(N, D) and b bytes per element of an operand (2 for bf16; 4 for fp16 and fp32, 8 for
fp32 at "highest" matmul precision): the Gram matrices, 4 R^2 per problem and view, live until
backward; the workspace is b N D, in backward b (N D + R^2), per problem at once. Nothing is D x D
when N < D.

**Accuracy.** Means, variances and sums across tiles are float64; products accumulate in fp32. In
bf16 the centered data and, in backward, the Gram matrix are rounded to bf16 (2^-9, to nearest) once
each; eager bf16 rounds the mean, the centered data, the D x D matrix and the gradients in between.
fp16 and "high" fp32 are rounded to tf32 (2^-12), "highest" fp32 keeps 22 bits.

No atomics, no host synchronisation, no random order: bitwise repeatable and capturable.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import arithmetic, launch, tuning
from sslkernels.backends.triton.product import column_moments as columns
from sslkernels.backends.triton.product import gram as symmetric
from sslkernels.backends.triton.product import operands, tiles
from sslkernels.backends.triton.vicreg.gradient import vicreg_backward
from sslkernels.backends.triton.vicreg.tiles import problems_at_once
from sslkernels.numerics.views import wide as takes_rows
from sslkernels.passes.vicreg import Part, VICRegSettings

__all__ = ["vicreg_backward", "vicreg_forward"]


@triton.jit
def sum_of(ptr, count, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float64)
    for at in range(0, count, BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        total += tl.load(ptr + offsets, mask=offsets < count, other=0.0)
    return tl.sum(total)


@launch.kernel
def terms_kernel(
    sums_ptr,  # float64 [3, blocks]: hinges, squared variances, (x - y)^2
    squares_ptr,  # float64 [slots]: squares of the scaled Gram entries, if COVARIANCE
    terms_ptr,  # fp32 [4]: loss, invariance, variance, covariance
    blocks,
    slots,
    N,
    D,
    P,
    V,
    sim,
    std,
    cov,
    scale,
    wide,
    invariance,
    variance,
    COVARIANCE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    columns = P.to(tl.float64) * D
    inv_term = tl.full((), 0.0, tl.float64)
    var_term = tl.full((), 0.0, tl.float64)
    cov_term = tl.full((), 0.0, tl.float64)
    if invariance:
        inv_term = sum_of(sums_ptr + 2 * blocks, blocks, BLOCK) / (columns * N)
    if variance:
        var_term = sum_of(sums_ptr, blocks, BLOCK) / (columns * V)
    if COVARIANCE:
        degrees = (N - 1).to(tl.float64) * scale
        cov_term = sum_of(squares_ptr, slots, BLOCK) / (degrees * degrees)
        if wide:
            cov_term -= sum_of(sums_ptr + blocks, blocks, BLOCK)
        cov_term /= columns
    loss = tl.full((), 0.0, tl.float64)
    if invariance:
        loss += sim * inv_term
    if variance:
        loss += std * var_term
    if COVARIANCE:
        loss += cov * cov_term
    tl.store(terms_ptr, loss.to(tl.float32))
    tl.store(terms_ptr + 1, inv_term.to(tl.float32))
    tl.store(terms_ptr + 2, var_term.to(tl.float32))
    tl.store(terms_ptr + 3, cov_term.to(tl.float32))


def vicreg_forward(
    x: torch.Tensor,
    y: torch.Tensor | None,
    settings: VICRegSettings,
    cuts: tiles.Cuts = tiles.CHOSEN,
    *,
    part: Part | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    with launch.on_device(x):
        device = launch.device_of(x)
        x = launch.unit_columns(x)
        y = None if y is None else launch.unit_columns(y)
        p, n, d = x.shape
        whole = part or Part(n, d)
        views = 1 if y is None else 2
        count = views * p
        wide = takes_rows(*whole)
        side, depth = (n, d) if wide else (d, n)
        op = arithmetic.operand(x.dtype, device)
        stride = operands.padded(depth)
        size = op.planes * side * stride * op.dtype.itemsize
        at_once = min(count, cuts.at_once or problems_at_once(count, size))
        # One program sees all rows, and has registers left over from its addresses.
        in_passing = at_once == count and columns.row_splits(x, device, cuts)[0] == 1
        in_passing &= launch.vector_width(x, x if y is None else y) > 1
        copy = None
        if settings.covariance:
            copy = operands.workspace(x, op.planes, at_once, side, stride, op.dtype)
        mean, var, sums = columns.column_moments(
            *(x, y, settings.gamma, settings.eps, device),
            out=copy if in_passing else None,
            transpose=not wide,
            rounding=op.rounding,
            cuts=cuts,
        )
        if whole.rows != n:  # sums of squares, divided by the whole batch's degrees of freedom
            var = var * ((n - 1) / (whole.rows - 1)) if n > 1 else torch.zeros_like(var)

        scale = 2.0 ** -round(math.log2(max(n - 1, 1)))
        shape = (views, p, side, side) if settings.covariance else (views, p, 0, 0)
        gram = x.new_empty(shape, dtype=torch.float32)
        squares = sums
        if copy is not None:

            def product(tile: tiles.Gram) -> torch.Tensor:
                plan = symmetric.plan(at_once, side, stride, op.segments, tile, device, cuts)
                squares = x.new_empty((count, plan.programs), dtype=torch.float64)
                for first in range(0, count, at_once):
                    part = copy[:, : min(at_once, count - first)]
                    if not in_passing:
                        operands.operands(
                            *(x, y, mean, None, first, part, None, not wide, op.rounding),
                            cuts.center,
                        )
                    extra = (gram, squares, scale, float(wide))
                    symmetric.gram(part, "squares", extra, plan, op.precision, first)
                return squares

            key = ("gram", x.device, count, tuning.bucket(n), d, op)
            choice = (cuts.gram,) if cuts.gram else tiles.gram(side, op.dtype, device)
            squares = product(tuning.pick(choice, key, product))
        terms = x.new_empty(4, dtype=torch.float32)
        terms_kernel[(1,)](
            sums,
            squares,
            terms,
            sums.shape[1],
            squares.numel(),
            *whole,
            p,
            views,
            *settings[:3],  # sim, std, cov
            scale,
            int(wide),
            int(settings.invariance),
            int(settings.variance),
            COVARIANCE=settings.covariance,
            BLOCK=1024,
            num_warps=4,
        )
    if not (settings.variance or settings.covariance):
        mean, var = mean[..., :0].contiguous(), var[..., :0].contiguous()
    return terms, mean, var, gram
