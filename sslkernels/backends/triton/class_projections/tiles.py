"""How the products of rows and centers are cut."""

from __future__ import annotations

from typing import NamedTuple

from sslkernels.backends.triton.core.launch import Device
from sslkernels.backends.triton.product.tiles import CenterTile

TABLE = 64 << 20  # bytes of products of all centers; beyond, by parts
# Bytes at a time, with that table and by parts: enough that launches do not decide the time.
WORKSPACE = (128 << 20, 256 << 20)


def choose(device: Device) -> CenterTile:
    """128 bytes of the contraction per row and step; two sums of a tile share the registers."""
    if device.backend == "hip":
        return CenterTile(64, 64, 64, 4, 2)
    if int(device.arch) < 90:
        return CenterTile(128, 64, 64, 8, 3)
    # 64 KB a stage; Blackwell's sums pass through shared memory, too.
    return CenterTile(128, 128, 64, 8, 3 if int(device.arch) == 90 else 2)


class Cuts(NamedTuple):
    """How projections are cut; what is None is chosen from the shape."""

    tile: CenterTile | None = None
    rows: int | None = None  # at a time, a multiple of the tile's
    whole: bool | None = None  # whether the products of all centers are made once


def rows(n: int, c: int, row_bytes: int, tile: CenterTile, device: Device) -> tuple[int, bool]:
    """(rows at a time, whether the products of all centers are made once).

    ``row_bytes`` is a row's operand; its products take 4 bytes per class and as many again if its
    part has a table of its own. Whole waves of programs, at least one.
    """
    whole = 4 * c * c <= TABLE
    row_bytes += 4 * c * (1 if whole else 2)
    col_tiles = -(-c // tile.block_c)
    programs = WORKSPACE[not whole] // row_bytes // tile.block_n * col_tiles
    waves = max(1, programs // device.processors)
    row_tiles = max(1, waves * device.processors // col_tiles)
    return min(row_tiles, -(-n // tile.block_n)) * tile.block_n, whole
