"""How the search is cut: tiles of the filter, spans of centers, rows at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sslkernels.backends.triton.core.launch import Device
from sslkernels.backends.triton.product.tiles import L2_SHARE, CenterTile

SCAN = 1 << 24  # N C D up to which float64 distances cost less than the filter's launches
SPANS = 8  # the most
WORKSPACE = 128 << 20  # bytes of candidates at a time; longer inputs go in parts


class Tiles(NamedTuple):
    """The tile of the first pass and of the finer one over the rows that it leaves open."""

    first: CenterTile
    split: CenterTile


class Cuts(NamedTuple):
    """How nearest centers are cut; what is None is chosen from the shape."""

    tiles: Tiles | None = None  # the first's columns are a multiple of the other's
    spans: int | None = None  # at most SPANS
    rows: int | None = None  # at a time
    scan: int | None = None  # N C D up to which there is no filter


def tiles(n: int, dtype: torch.dtype, device: Device) -> Tiles:
    large, small = candidates(dtype, device)
    return small if n <= small.first.block_n * device.processors else large


def candidates(dtype: torch.dtype, device: Device) -> tuple[Tiles, Tiles]:
    """128 x 256 where the accumulator leaves the registers room: tensor cores that read both
    operands from shared memory (Hopper) or keep sums outside registers (Blackwell). fp32 rows take
    steps of 32 columns, 128 bytes: they pass through registers to become bf16."""
    wide = dtype == torch.float32
    if device.backend == "hip":
        large = CenterTile(64 if wide else 128, 128, 32, 8, 2)
        # A second stage would spill.
        small, split = CenterTile(64, 128, 32, 4, 2), CenterTile(128, 64, 32, 8, 1)
    else:
        if int(device.arch) == 90 or (int(device.arch) > 90 and not wide):
            large = CenterTile(128, 256, 32 if wide else 64, 8, 4)
        else:
            large = CenterTile(128, 128, 32 if wide else 64, 8, 3)
        small, split = CenterTile(64, 128, 32, 4, 3), CenterTile(128, 64, 32, 8, 3)
    return Tiles(large, split), Tiles(small, split)


def span_rows(
    z: torch.Tensor, table_rows: int, tile: CenterTile, device: Device, spans: int | None = None
) -> int:
    """Rows of the table per span. Unless ``spans`` says how many: enough spans that the rows of z
    in flight fit L2 (the programs of a row tile run side by side) and that every processor has a
    program."""
    n, d = z.shape
    in_flight = device.processors * tile.block_n * d * z.element_size()
    wanted = max(-(-in_flight // L2_SHARE), device.processors // -(-n // tile.block_n))
    spans = max(1, min(spans or wanted, SPANS))
    blocks = table_rows // tile.block_c
    return -(-blocks // spans) * tile.block_c
