"""Nearest centers on the GPU: a low-precision filter with a proven bound, float64 for the rest.

The steps, for a chunk of rows (so that the workspace stays small):

1. once: centers to the table that the filter reads (``table.py``);
2. filter all rows (``filter.center_filter_kernel``);
3. decide, or list the rows with a few candidates, too many, or no bound (``choice.py``);
4. filter the rows with too many again, with split operands and x - g; decide or list;
5. fp32 scores of the candidates of listed rows, float64 distances to those that fp32 cannot tell
   apart, or to every center where no bound holds.

``exact=False`` stops after 3; rows without a bound still take 5. Problems too small to fill the
device go straight to float64. The host waits for nothing: lists and their lengths stay on the
device, and programs without a row to do return at once.
"""

from __future__ import annotations

import torch
import triton

from sslkernels.backends.triton.core import launch
from sslkernels.backends.triton.nearest_center import choice, tiles
from sslkernels.backends.triton.nearest_center import filter as filtering
from sslkernels.backends.triton.nearest_center.table import (
    PITCH,
    CenterTable,
    center_table,
    usable_centers,
)
from sslkernels.backends.triton.product.tiles import CenterTile

_CHOICE_BLOCK = 128
_RECHECK_BLOCK, _RECHECK_WARPS = 256, 1
_SCAN_C, _SCAN_D = 32, 32
_CHOSEN = tiles.Cuts()


def nearest_center_forward(
    z: torch.Tensor, centers: torch.Tensor, exact: bool, cuts: tiles.Cuts = _CHOSEN
) -> torch.Tensor:
    """The nearest center of every row.

    Args:
        z: [N, D] fp16, bf16 or fp32. Columns must be contiguous to stay so: anything else is copied
            (``launch.unit_columns``).
        centers: [C, D], contiguous fp32 or fp64. A center that is not finite is never chosen.
        exact: the argmin of float64 distances, ties to the lowest class; otherwise the best score
            of one low-precision pass.
        cuts: how the work is cut.

    Returns:
        int64 [N]: -1 for rows that are not finite, and where no center is usable.
    """
    z = launch.unit_columns(z)
    out = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    if not len(z) or not len(centers):
        return out.fill_(-1)
    with launch.on_device(z):
        if len(z) * centers.numel() <= (tiles.SCAN if cuts.scan is None else cuts.scan):
            _scan(z, centers, usable_centers(centers), None, out)
        else:
            _filtered(z, centers, exact, out, cuts)
    return out


def _filtered(
    z: torch.Tensor, centers: torch.Tensor, exact: bool, out: torch.Tensor, cuts: tiles.Cuts
) -> None:
    device = launch.device_of(z)
    tile = cuts.tiles or tiles.tiles(len(z), z.dtype, device)
    table = center_table(centers, z.dtype, tile.first.block_c)
    span = tiles.span_rows(z, len(table.hi), tile.first, device, cuts.spans)
    spans = triton.cdiv(len(table.hi), span)
    row_bytes = spans * (8 * filtering.KEEP + 4)
    n = min(len(z), cuts.rows or max(1024, tiles.WORKSPACE // row_bytes))
    score = z.new_empty((n, spans, filtering.KEEP), dtype=torch.float32)
    index = torch.empty_like(score, dtype=torch.int32)
    rest = z.new_empty((n, spans), dtype=torch.float32)
    error = z.new_empty(n, dtype=torch.float32)
    found = (score, index, rest, error)
    limit = torch.empty_like(error)
    few, many, every = (torch.empty_like(error, dtype=torch.int32) for _ in range(3))
    for begin in range(0, len(z), n):
        rows, own = z[begin : begin + n], out[begin : begin + n]
        counts = torch.zeros(3, dtype=torch.int32, device=z.device)
        _filter(rows, None, table, span, found, tile.first, device)
        for listed in (False, True) if exact else (False,):
            if listed:
                _filter(rows, (many, counts[1:]), table, span, found, tile.split, device)
            choice.center_choice_kernel[(triton.cdiv(len(rows), _CHOICE_BLOCK),)](
                score,
                index,
                rest,
                error,
                table.count,
                many,
                few,
                every,
                counts,
                limit,
                own,
                len(rows),
                spans,
                EXACT=exact,
                LISTED=listed,
                KEEP=filtering.KEEP,
                BLOCK=_CHOICE_BLOCK,
                num_warps=4,
            )
        if exact:
            _recheck(rows, table, score, index, limit, few, counts, own, device)
        _scan(rows, centers, table.usable, (every, counts), own)


def _filter(
    z: torch.Tensor,
    listed: tuple[torch.Tensor, torch.Tensor] | None,  # which rows, and how many: the finer pass
    table: CenterTable,
    span: int,  # centers
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    tile: CenterTile,
    device: launch.Device,
) -> None:
    """One pass over all rows, or the finer one over listed rows."""
    (n, d), split = z.shape, listed is not None
    spans = found[0].shape[1]
    jobs = triton.cdiv(n, tile.block_n) * spans
    rows, count = listed or (found[1], found[1])
    filtering.center_filter_kernel[(min(jobs, 4 * device.processors) if split else jobs,)](
        z,
        rows,
        count,
        table.hi if split else table.first,
        table.lo,
        table.h_shifted if split else table.h_first,
        table.g,
        table.bounds,
        *found,
        n,
        d,
        z.stride(0),
        table.hi.stride(0),
        len(table.hi),
        span,
        spans,
        LISTED=split,
        SHIFTED=split or z.dtype == torch.float32,
        SPLIT=split,
        EVEN_K=d % tile.block_k == 0,
        VEC=launch.vector_width(z),
        GROUPS=filtering.GROUPS,
        KEEP=filtering.KEEP,
        **tile.constexprs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def _recheck(
    z: torch.Tensor,
    table: CenterTable,
    score: torch.Tensor,
    index: torch.Tensor,
    limit: torch.Tensor,
    few: torch.Tensor,
    counts: torch.Tensor,
    out: torch.Tensor,
    device: launch.Device,
) -> None:
    choice.center_recheck_kernel[(min(len(z), 16 * device.processors),)](
        z,
        table.centers,
        table.hi,
        table.lo,
        table.h_shifted,
        table.g,
        table.bounds,
        score,
        index,
        limit,
        few,
        counts,
        out,
        z.shape[1],
        z.stride(0),
        table.hi.stride(0),
        score.shape[1],
        VEC=launch.vector_width(z),
        KEEP=filtering.KEEP,
        SPANS=tiles.SPANS,
        PITCH=PITCH,
        BLOCK_D=_RECHECK_BLOCK,
        num_warps=_RECHECK_WARPS,
    )


def _scan(
    z: torch.Tensor,
    centers: torch.Tensor,
    usable: torch.Tensor,
    listed: tuple[torch.Tensor, torch.Tensor] | None,  # which rows, and the lengths of the lists
    out: torch.Tensor,
) -> None:
    every, counts = listed or (usable, usable)
    processors = launch.device_of(z).processors
    choice.center_scan_kernel[(min(len(z), 4 * processors),)](
        z,
        centers,
        usable,
        every,
        counts,
        out,
        len(z),
        centers.shape[0],
        z.shape[1],
        z.stride(0),
        LISTED=listed is not None,
        VEC=launch.vector_width(z),
        BLOCK_C=_SCAN_C,
        BLOCK_D=_SCAN_D,
        num_warps=4,
    )
