r"""The gradient of NT-Xent. Mathematics in ``passes/nt_xent.py``, accuracy and memory in
``forward.py``.

The weights of the other rows, ``W_ij = exp(s_ij - lse_i) + exp(s_ij - lse_j)`` off the diagonal and
the pairs, are formed again from the unit rows for as many rows at a time as stay in the L2 cache,
and multiplied by the unit rows from there: two products in all, however large D is. The pairs,
whose weight may be far larger or the small rest of a difference, are added by the last kernel in
fp32 from the rows themselves.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import arithmetic, launch
from sslkernels.backends.triton.nt_xent.rows import (
    finish_rows,
    own_stretches,
    unit_rows,
    unit_workspace,
)
from sslkernels.backends.triton.nt_xent.tiles import logit_tiles
from sslkernels.backends.triton.product import gram as symmetric
from sslkernels.backends.triton.product import operands, tiles
from sslkernels.backends.triton.product import plain as products

_LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def load_relative(rows_ptr, rows, M, inverse):
    """Log-sum-exps as the logits are counted (``forward.py``): base 2, less 1 / temperature."""
    lse = tl.load(rows_ptr + rows, mask=rows < M, other=0.0)
    return ((lse - inverse) * _LOG2E).to(tl.float32)


@launch.kernel
def nt_xent_weights_kernel(
    unit_ptr,  # [planes, M and more, K] unit rows, padded
    rows_ptr,  # float64 [2, M]
    weights_ptr,  # [planes, last - first, M padded] out
    N,
    M,  # 2 N
    K,
    first,  # rows to do
    last,
    stride_unit,
    unit_plane,
    stride_weights,
    weights_plane,
    scale,  # log2(e) / temperature
    inverse,  # 1 / temperature
    SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROUNDING: tl.constexpr,
    VEC: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    K = K // VEC * VEC
    stride_unit = stride_unit // VEC * VEC
    unit_plane = unit_plane // VEC * VEC
    stride_weights = stride_weights // PAD * PAD
    weights_plane = weights_plane // PAD * PAD
    begin = tl.program_id(1) * BLOCK  # of the weights' rows
    top = first + begin
    left = tl.program_id(0) * BLOCK
    acc = symmetric.whole_tile(
        *(unit_ptr, unit_ptr, top, left, stride_unit, stride_unit, unit_plane, unit_plane),
        *(K, SEGMENTS, PRECISION, BLOCK, BLOCK_K),
    )
    r = tl.arange(0, BLOCK)
    rows = top + r
    cols = left + r
    own = load_relative(rows_ptr, rows, M, inverse)
    other = load_relative(rows_ptr, cols, M, inverse)
    t = acc * scale - scale
    weight = tl.exp2(t - own[:, None]) + tl.exp2(t - other[None, :])
    apart = tl.abs(cols[None, :] - rows[:, None])  # N: the other view of the same sample
    apart = tl.where((cols < M)[None, :], apart, 0)
    weight = tl.where((apart == 0) | (apart == N), 0.0, weight)
    # 64-bit arithmetic for the tile's corner, 32-bit within: half the address registers.
    weights_ptr += begin.to(tl.int64) * stride_weights + left
    mask = (rows < last)[:, None] & (cols < stride_weights)[None, :]
    at = r[:, None] * stride_weights + r[None, :]
    operands.store_operand(weights_ptr, at, weight, mask, weights_plane, ROUNDING)


def nt_xent_backward(
    grad: torch.Tensor,  # [3]
    x: torch.Tensor,  # [N, D]
    y: torch.Tensor,
    rows: torch.Tensor,  # [2, 2N]
    temperature: float,
    need_x: bool,
    need_y: bool,
    need_radial: bool = False,
    own: tuple[int, int] | None = None,
    unrounded: bool = False,
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    if not (need_x or need_y or need_radial):
        return None, None, None
    with launch.on_device(x):
        device = launch.device_of(x)
        n, d = x.shape
        m = 2 * n
        samples = own[1] if own else n
        dtype = torch.float32 if unrounded else x.dtype
        both = need_radial  # of which every own row has a share
        grad_x = x.new_empty((samples, d), dtype=dtype) if need_x or both else None
        grad_y = x.new_empty((samples, d), dtype=dtype) if need_y or both else None
        x, y = launch.unit_columns(x), launch.unit_columns(y)
        op = arithmetic.operand(x.dtype, device)
        stride = operands.padded(m)
        units = unit_workspace(x, op)
        turned = x.new_empty((op.planes, d, stride), dtype=op.dtype)
        norm = x.new_empty(m, dtype=torch.float64)
        unit_rows(x, y, units, (turned, norm), op.rounding, cuts)

        stretches = own_stretches(n, own, grad_x is not None, grad_y is not None)
        longest = stretches[0][1]
        count = len(stretches) * longest
        row_bytes = op.planes * stride * op.dtype.itemsize
        at_once = min(longest, cuts.at_once or tiles.rows_at_once(row_bytes))
        weights = x.new_empty((op.planes, at_once, stride), dtype=op.dtype)
        splits = products.splits(at_once, d, stride, op, device, cuts)
        part = x.new_empty((splits, count, d), dtype=torch.float32)
        tile = cuts.gram or logit_tiles(count, m, op, device)[0]
        done = 0
        for begin, length in stretches:
            for first in range(begin, begin + length, at_once):
                last = min(first + at_once, begin + length)
                grid = (triton.cdiv(m, tile.block), triton.cdiv(last - first, tile.block))
                nt_xent_weights_kernel[grid](
                    units,
                    rows,
                    weights,
                    n,
                    m,
                    units.shape[2],
                    first,
                    last,
                    units.stride(1),
                    units.stride(0),
                    weights.stride(1),
                    weights.stride(0),
                    math.log2(math.e) / temperature,
                    1.0 / temperature,
                    **op.constexprs,
                    ROUNDING=op.rounding,
                    PAD=operands.PAD,
                    **tile.constexprs,
                    num_warps=tile.num_warps,
                    num_stages=tile.num_stages,
                )
                here = part[:, done : done + last - first]
                products.product(weights[:, : last - first], turned, here, op, device, cuts)
                done += last - first
        along = finish_rows(
            *(grad, x, y, rows, norm, part, grad_x, grad_y),
            *(own[0] if own else 0, temperature, cuts),
        )
        radial = along.sum() / (m * temperature) if need_radial else None
    return grad_x if need_x else None, grad_y if need_y else None, radial
