"""How rows and columns are cut."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sslkernels.backends.triton.product.tiles import L2_SHARE

TILE_ROWS = (64, 512)  # sorted rows per program: small batches need more programs


class Tile(NamedTuple):
    """A program walks ``rows`` sorted rows, ``row_step`` at a time, over ``block_d`` columns."""

    rows: int
    row_step: int
    block_d: int
    num_warps: int
    block_tiles: int  # tiles per block of rows that K labelings share through L2


def choose(n: int, d: int, classes: list[int], dtype: torch.dtype) -> Tile:
    block_d = _columns(d, dtype)
    programs = -(-n // TILE_ROWS[1]) * -(-d // block_d)
    # Two waves of the 16 or so one-warp programs that each of 132 processors holds.
    rows = TILE_ROWS[0] if programs < 2 * 16 * 132 else TILE_ROWS[1]
    tile = _tile(rows, block_d, dtype)
    num_tiles = -(-n // rows)
    if len(classes) > 1:
        shared = max(1, L2_SHARE // (block_d * dtype.itemsize * rows))
        blocks = -(-num_tiles // shared)
        # Per column: fp32 segment sums, written and read once, against what K - 1 reads would cost.
        segments = sum(min(n, blocks * c) for c in classes) * 2 * 4
        if 2 * segments < (len(classes) - 1) * n * dtype.itemsize:
            return tile._replace(block_tiles=min(shared, num_tiles))
    return tile._replace(block_tiles=num_tiles)


def _columns(d: int, dtype: torch.dtype) -> int:
    """One warp reads 512 contiguous bytes of a row, 16 per thread, or less of a shorter row."""
    if d <= 32:
        return 32
    return 128 if d <= 128 else 512 // dtype.itemsize


def _tile(rows: int, block_d: int, dtype: torch.dtype) -> Tile:
    # 4 KB in flight per warp, so that 16 warps cover the latency of device memory.
    return Tile(rows, min(32, 4096 // (block_d * dtype.itemsize)), block_d, 1, 1)
