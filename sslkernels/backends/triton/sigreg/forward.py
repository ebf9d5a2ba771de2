r"""SIGReg's sums on a GPU: the passes of ``passes/sigreg.py``, whose docstring has the mathematics.

Launches. Forward: slices [1], z as an operand [1], and for each chunk of rows projections with
their sums [1], and the sums' sums [1]. Backward (``gradient.py``): slices and operand again,
and for each chunk the weights of the slices [1], their product with the slices [1] and the result
[1]. A chunk's partial sums, or its weights, stay in the L2 cache: at (2048, 512), 1024 slices and
17 knots there is one chunk.

A program projects BLOCK_N rows on BLOCK_M slices, a tile of a product, and walks over the knots:
(cos, sin)(t_k p) is turned by (cos, sin)(dt p) from knot to knot, four multiplications and two
additions, and taken anew at every RESTART-th. Rows lie along the tile's second dimension, whose
sums stay within a few lanes. Nothing of size N x slices x knots or N x slices is kept.

**Accuracy.** Projections accumulate in fp32 from operands as ``arithmetic.operand`` has them;
angles and their functions are fp32 (turning adds at most about RESTART roundings), sums over a
tile's rows fp32, sums of tiles float64 in a fixed order: no atomics, the same input gives the same
bits.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch
from sslkernels.backends.triton.product import gram as symmetric
from sslkernels.backends.triton.product import operands, tiles
from sslkernels.backends.triton.sigreg.gradient import sigreg_backward
from sslkernels.backends.triton.sigreg.slices import RESTART, factors, turn, turned
from sslkernels.passes.sigreg import SIGRegSettings

__all__ = ["sigreg_backward", "sigreg_forward"]

_REDUCE = 128  # slices per program of the second stage


@launch.kernel
def sigreg_forward_kernel(
    slices_ptr,  # [planes, slices and more, K], padded
    z_ptr,  # [planes, N and more, K]
    part_ptr,  # fp32 [row tiles, knots, 2, pitch] out: sums of cosines and sines
    N,
    M,  # slices
    K,
    knots,
    stride_slice,
    slice_plane,
    stride_z,
    z_plane,
    pitch,
    first_turns,  # t_min / (2 pi)
    step_turns,  # dt / (2 pi)
    RESTART: tl.constexpr,
    SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    K = K // VEC * VEC
    stride_slice = stride_slice // VEC * VEC
    stride_z = stride_z // VEC * VEC
    top = tl.program_id(0) * BLOCK
    left = tl.program_id(1) * BLOCK
    p = symmetric.whole_tile(
        *(slices_ptr, z_ptr, top, left, stride_slice, stride_z),
        *(slice_plane // VEC * VEC, z_plane // VEC * VEC, K, SEGMENTS, PRECISION, BLOCK, BLOCK_K),
    )
    inside = (left + tl.arange(0, BLOCK) < N)[None, :]
    p = tl.where(inside, p, 0.0)
    at = top + tl.arange(0, BLOCK)
    mask = at < M
    part_ptr += tl.program_id(1).to(tl.int64) * knots * 2 * pitch
    cos_step, sin_step = turned(p * step_turns)
    for start in range(0, knots, RESTART):
        cos, sin = turned(p * (first_turns + start * step_turns))
        # Rows past the last stay zero however they are turned.
        cos = tl.where(inside, cos, 0.0)
        sin = tl.where(inside, sin, 0.0)
        for k in range(start, tl.minimum(start + RESTART, knots)):
            tl.store(part_ptr + 2 * k * pitch + at, tl.sum(cos, axis=1), mask=mask)
            tl.store(part_ptr + (2 * k + 1) * pitch + at, tl.sum(sin, axis=1), mask=mask)
            cos, sin = turn(cos, sin, cos_step, sin_step)


@launch.kernel
def sigreg_reduce_kernel(
    part_ptr,  # fp32 [count, knots, 2, pitch]
    sums_ptr,  # float64 [M, knots, 2]
    M,
    pitch,
    count,
    more,  # 1: added to what is there
    BLOCK: tl.constexpr,
):
    """The second stage: tiles of rows in order, in float64."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < M
    place = tl.program_id(1)
    size = tl.num_programs(1).to(tl.int64) * pitch
    part_ptr += place * pitch
    out = sums_ptr + at.to(tl.int64) * tl.num_programs(1) + place
    total = tl.load(out, mask=mask & (more == 1), other=0.0)
    for i in range(count):
        total += tl.load(part_ptr + i * size + at, mask=mask, other=0.0).to(tl.float64)
    tl.store(out, total, mask=mask)


def sigreg_forward(
    z: torch.Tensor,  # [N, D]
    step: torch.Tensor,
    settings: SIGRegSettings,
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> torch.Tensor:
    num_slices, num_knots, t_min, *_ = settings
    with launch.on_device(z):
        z = launch.unit_columns(z)
        op, tile, directions, _, copy = factors(z, step, settings, False, cuts)
        n = z.shape[0]
        sums = z.new_empty((num_slices, num_knots, 2), dtype=torch.float64)
        pitch = operands.padded(num_slices)
        row_tiles = triton.cdiv(n, tile.block)
        bytes_each = num_knots * 2 * pitch * 4
        at_once = cuts.at_once or max(1, tiles.WORKSPACE // bytes_each)
        at_once = min(row_tiles, launch.GRID, at_once)
        part = z.new_empty((at_once, num_knots, 2, pitch), dtype=torch.float32)
        turns = settings.spacing() / (2 * math.pi)
        for first in range(0, row_tiles, at_once):
            count = min(at_once, row_tiles - first)
            rows = copy[:, first * tile.block :]
            sigreg_forward_kernel[(triton.cdiv(num_slices, tile.block), count)](
                directions,
                rows,
                part,
                n - first * tile.block,
                num_slices,
                copy.shape[2],
                num_knots,
                directions.stride(1),
                directions.stride(0),
                rows.stride(1),
                rows.stride(0),
                pitch,
                t_min / (2 * math.pi),
                turns,
                RESTART=RESTART,
                **op.constexprs,
                **tile.constexprs,
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
            sigreg_reduce_kernel[(triton.cdiv(num_slices, _REDUCE), 2 * num_knots)](
                part, sums, num_slices, pitch, count, int(first > 0), BLOCK=_REDUCE, num_warps=4
            )
    return sums
