"""Tiles of the kernels of class statistics; conventions in ``tiles.py``."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sslkernels.backends.triton.core.launch import GRID, Device
from sslkernels.backends.triton.product.tiles import Gram, Stream, gram_candidates

# ---- class moments (class_moments.py) ----

CLASS_TILE_ROWS = (64, 512)  # sorted rows per program: small batches need more programs
L2_SHARE = 16 << 20  # bytes of z that survive in the L2 cache of a data-center GPU (40 MB and up)


class ClassMoments(NamedTuple):
    """A program walks ``rows`` sorted rows, ``row_step`` at a time, over ``block_d`` columns."""

    rows: int
    row_step: int
    block_d: int
    num_warps: int
    block_tiles: int  # tiles per block of rows that K labelings share through L2

    def __str__(self) -> str:
        return f"{self.rows} rows, {self.row_step}x{self.block_d}"


def class_moments(n: int, d: int, classes: list[int], dtype: torch.dtype) -> ClassMoments:
    block_d = _class_columns(d, dtype)
    programs = -(-n // CLASS_TILE_ROWS[1]) * -(-d // block_d)
    # Two waves of the 16 or so one-warp programs that each of 132 processors holds.
    rows = CLASS_TILE_ROWS[0] if programs < 2 * 16 * 132 else CLASS_TILE_ROWS[1]
    tile = _class_tile(rows, block_d, dtype)
    num_tiles = -(-n // rows)
    if len(classes) > 1:
        shared = max(1, L2_SHARE // (block_d * dtype.itemsize * rows))
        blocks = -(-num_tiles // shared)
        # Per column: fp32 segment sums, written and read once, against what K - 1 reads would cost.
        segments = sum(min(n, blocks * c) for c in classes) * 2 * 4
        if 2 * segments < (len(classes) - 1) * n * dtype.itemsize:
            return tile._replace(block_tiles=min(shared, num_tiles))
    return tile._replace(block_tiles=num_tiles)


def class_moments_candidates(dtype: torch.dtype) -> tuple[ClassMoments, ...]:
    widths = sorted({_class_columns(d, dtype) for d in (1, 128, 256)})
    return tuple(_class_tile(r, w, dtype) for r in CLASS_TILE_ROWS for w in widths)


def _class_columns(d: int, dtype: torch.dtype) -> int:
    """One warp reads 512 contiguous bytes of a row, 16 per thread, or less of a shorter row."""
    if d <= 32:
        return 32
    return 128 if d <= 128 else 512 // dtype.itemsize


def _class_tile(rows: int, block_d: int, dtype: torch.dtype) -> ClassMoments:
    # 4 KB in flight per warp, so that 16 warps cover the latency of device memory.
    return ClassMoments(rows, min(32, 4096 // (block_d * dtype.itemsize)), block_d, 1, 1)


# ---- nearest center (nearest_centers.py) ----

CENTER_SCAN = 1 << 24  # N C D up to which float64 distances cost less than the filter's launches
CENTER_SPANS = 8  # most spans of one set of centers
CENTER_WORKSPACE = 128 << 20  # bytes of candidates at a time; longer inputs go in parts


class CenterTile(NamedTuple):
    block_n: int
    block_c: int
    block_k: int
    num_warps: int
    num_stages: int

    @property
    def constexprs(self) -> dict[str, int]:
        return {"BLOCK_N": self.block_n, "BLOCK_C": self.block_c, "BLOCK_K": self.block_k}

    def __str__(self) -> str:
        return f"{self.block_n}x{self.block_c}x{self.block_k}, {self.num_warps} warps"


class CenterTiles(NamedTuple):
    """The tile of the first pass and of the finer one over the rows that it leaves open."""

    first: CenterTile
    split: CenterTile


class CenterCuts(NamedTuple):
    """How nearest centers are cut; what is None is chosen from the shape."""

    tiles: CenterTiles | None = None  # the first's columns are a multiple of the other's
    spans: int | None = None  # of one set of centers, at most CENTER_SPANS
    rows: int | None = None  # at a time
    scan: int | None = None  # N C D up to which there is no filter


def center_tiles(n: int, dtype: torch.dtype, device: Device) -> CenterTiles:
    large, small = center_candidates(dtype, device)
    return small if n <= small.first.block_n * device.processors else large


def center_candidates(dtype: torch.dtype, device: Device) -> tuple[CenterTiles, CenterTiles]:
    """128 x 256 where the accumulator leaves the registers room: tensor cores that read both
    operands from shared memory (Hopper) or keep sums outside registers (Blackwell). fp32 rows take
    steps of 32 columns, 128 bytes: they pass through registers to become bf16."""
    wide = dtype == torch.float32
    if device.backend == "hip":
        large = CenterTile(64 if wide else 128, 128, 32, 8, 2)
        small, split = CenterTile(64, 128, 32, 4, 2), CenterTile(128, 64, 32, 8, 2)
    else:
        if int(device.arch) == 90 or (int(device.arch) > 90 and not wide):
            large = CenterTile(128, 256, 32 if wide else 64, 8, 4)
        else:
            large = CenterTile(128, 128, 32 if wide else 64, 8, 3)
        small, split = CenterTile(64, 128, 32, 4, 3), CenterTile(128, 64, 32, 8, 3)
    return CenterTiles(large, split), CenterTiles(small, split)


def center_span(
    n: int,
    d: int,
    table_rows: int,
    dtype: torch.dtype,
    tile: CenterTile,
    device: Device,
    spans: int | None = None,
) -> int:
    """Rows of the table per span. Unless ``spans`` says how many: enough spans that the rows in
    flight fit L2 (the programs of a row tile run side by side) and that every processor has a
    program."""
    in_flight = device.processors * tile.block_n * d * dtype.itemsize
    wanted = max(-(-in_flight // L2_SHARE), device.processors // -(-n // tile.block_n))
    spans = max(1, min(spans or wanted, CENTER_SPANS))
    tiles = table_rows // tile.block_c
    return -(-tiles // spans) * tile.block_c


# ---- pairs of class means (pairs.py) ----


def pairs(dtype: torch.dtype, device: Device) -> Gram:
    """128 x 128 tiles; 64 x 64 on AMD, where the epilogues of the larger tile spill. Whether either
    covers all classes makes no difference worth another configuration."""
    large, small = gram_candidates(dtype, device)
    return small if device.backend == "hip" else large


# ---- moments of unit rows (unit_row_moments.py) ----

UNIT = Stream(16, 128, 4, 1)  # two float64 sums per element of the tile: 64 registers


def unit_stretches(programs: int, rows: int, device: Device) -> int:
    """Into how many stretches to cut the rows: sixteen small programs per processor keep enough
    loads in flight; below 64 rows each, the partial sums would be what costs."""
    return max(1, min(16 * device.processors // programs, rows // 64, GRID))


# ---- projections on class means (projections.py) ----

PROJECTION_TABLE = 64 << 20  # bytes of products of all centers; beyond, by parts
# Bytes at a time, with that table and by parts: enough that launches do not decide the time.
PROJECTION_WORKSPACE = (128 << 20, 256 << 20)


def projections_tile(device: Device) -> CenterTile:
    """128 bytes of the contraction per row and step; two sums of a tile share the registers."""
    if device.backend == "hip":
        return CenterTile(64, 64, 64, 4, 2)
    if int(device.arch) < 90:
        return CenterTile(128, 64, 64, 8, 3)
    # 64 KB a stage; Blackwell's sums pass through shared memory, too.
    return CenterTile(128, 128, 64, 8, 3 if int(device.arch) == 90 else 2)


class ProjectionCuts(NamedTuple):
    """How projections are cut; what is None is chosen from the shape."""

    tile: CenterTile | None = None
    rows: int | None = None  # at a time, a multiple of the tile's
    whole: bool | None = None  # whether the products of all centers are made once


def projection_rows(
    n: int, c: int, row_bytes: int, tile: CenterTile, device: Device
) -> tuple[int, bool]:
    """(rows at a time, whether the products of all centers are made once).

    ``row_bytes`` is a row's operand; its products take 4 bytes per class and as many again if its
    part has a table of its own. Whole waves of programs, at least one.
    """
    whole = 4 * c * c <= PROJECTION_TABLE
    row_bytes += 4 * c * (1 if whole else 2)
    col_tiles = -(-c // tile.block_c)
    programs = PROJECTION_WORKSPACE[not whole] // row_bytes // tile.block_n * col_tiles
    waves = max(1, programs // device.processors)
    row_tiles = max(1, waves * device.processors // col_tiles)
    return min(row_tiles, -(-n // tile.block_n)) * tile.block_n, whole
