"""The centers of all labelings as the filter in ``center_filter`` reads them.

Shifted, rounded, and each set padded to whole blocks, so that one launch serves every labeling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton

from sslkernels.backends.triton.core import class_tiles, launch
from sslkernels.backends.triton.nearest_center import filter as filtering

CENTER_BLOCK = 256  # columns per step of center_kernel
PITCH = 64  # the table's rows are padded to multiples of every BLOCK_K


def usable_centers(centers: torch.Tensor) -> torch.Tensor:
    return centers.isfinite().all(dim=1).to(torch.uint8)


class CenterSet(NamedTuple):
    """One set of centers and where it lies in the table."""

    centers: torch.Tensor
    usable: torch.Tensor  # [C] uint8
    count: torch.Tensor  # [1] int64
    first_span: int
    num_spans: int


class CenterTable(NamedTuple):
    """All sets, as the filter reads them; see center_filter for the columns."""

    sets: list[CenterSet]
    first: torch.Tensor  # [rows, pitch] in the first pass's type
    hi: torch.Tensor  # [rows, pitch] bf16
    lo: torch.Tensor  # [rows, pitch] bf16
    h_first: torch.Tensor  # [rows] fp32
    h_shifted: torch.Tensor  # [rows] fp32
    g: torch.Tensor  # [sets, D] fp32
    bounds: torch.Tensor  # [sets, BOUNDS] fp32
    spans: torch.Tensor  # [spans, 4] int32


def center_table(
    z: torch.Tensor,
    centers: Sequence[torch.Tensor],
    tile: class_tiles.CenterTiles,
    device: launch.Device,
    spans: int | None = None,
) -> CenterTable:
    n, d = z.shape
    block = tile.first.block_c
    rows = [triton.cdiv(c.shape[0], block) * block for c in centers]
    how = (z.dtype, tile.first, device, spans)
    span_rows = [class_tiles.center_span(n, d, r, *how) for r in rows]
    num_spans = [triton.cdiv(r, s) for r, s in zip(rows, span_rows, strict=True)]
    pitch = triton.cdiv(d, PITCH) * PITCH
    new = z.new_empty
    hi = new((sum(rows), pitch), dtype=torch.bfloat16)
    # fp16 rows are multiplied by fp16 centers; for the others the first pass reads ``hi``.
    first = new((sum(rows), pitch), dtype=torch.float16) if z.dtype == torch.float16 else hi
    table = CenterTable(
        [],
        first,
        hi,
        torch.empty_like(hi),
        new(sum(rows), dtype=torch.float32),
        new(sum(rows), dtype=torch.float32),
        new((len(centers), d), dtype=torch.float32),
        new((len(centers), filtering.BOUNDS), dtype=torch.float32),
        new((sum(num_spans), 4), dtype=torch.int32),
    )
    bounds = new((sum(rows), filtering.BOUNDS), dtype=torch.float32)
    row = span = 0
    for k, c in enumerate(centers):
        usable = usable_centers(c)
        count = usable.sum(dtype=torch.int64)
        finite = c.where(usable.bool().unsqueeze(1), 0.0)
        table.g[k] = finite.sum(dim=0, dtype=torch.float64) / count.clamp(min=1)
        part = slice(row, row + rows[k])
        filtering.center_kernel[(rows[k],)](
            c,
            usable,
            table.g[k],
            table.first[part],
            table.hi[part],
            table.lo[part],
            table.h_first[part],
            table.h_shifted[part],
            bounds[part],
            table.spans[span:],
            c.shape[0],
            d,
            pitch,
            rows[k],
            span_rows[k],
            row,
            k,
            SHIFTED=z.dtype == torch.float32,
            BLOCK_D=CENTER_BLOCK,
            num_warps=2,
        )
        table.bounds[k] = bounds[part].amax(dim=0)
        table.sets.append(CenterSet(c, usable, count, span, num_spans[k]))
        row, span = row + rows[k], span + num_spans[k]
    return table
