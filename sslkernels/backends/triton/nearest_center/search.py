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
    Found,
    Lists,
    Table,
    center_table,
    usable_centers,
)

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
        usable = usable_centers(centers)
        if len(z) * centers.numel() <= (tiles.SCAN if cuts.scan is None else cuts.scan):
            _scan(z, centers, usable, None, out)
        else:
            _filtered(z, centers, usable, exact, out, cuts)
    return out


def _filtered(
    z: torch.Tensor,
    centers: torch.Tensor,
    usable: torch.Tensor,
    exact: bool,
    out: torch.Tensor,
    cuts: tiles.Cuts,
) -> None:
    device = launch.device_of(z)
    # Without 128-bit loads, addresses leave the filter's tiles no registers.
    align = launch.vector_width(z) == 1
    if align:
        centers = launch.aligned(centers)
    tile = cuts.tiles or tiles.tiles(len(z), z.dtype, device)
    count = usable.sum(dtype=torch.int64)
    table = center_table(centers, usable, count, z.dtype, tile.first.block_c)
    d = centers.shape[1]
    span = tiles.span_rows(z, len(table.hi), tile.first, device, cuts.spans)
    spans = triton.cdiv(len(table.hi), span)
    row_bytes = spans * (8 * filtering.KEEP + 4) + (d * z.element_size() if align else 0)
    n = min(len(z), cuts.rows or max(1024, tiles.WORKSPACE // row_bytes))
    score = z.new_empty((n, spans, filtering.KEEP), dtype=torch.float32)
    rest, error, limit = score.new_empty((n, spans)), score.new_empty(n), score.new_empty(n)
    found = Found(score, torch.empty_like(score, dtype=torch.int32), rest, error, limit)
    few, many, every = (torch.empty_like(error, dtype=torch.int32) for _ in range(3))
    for begin in range(0, len(z), n):
        rows, own = z[begin : begin + n], out[begin : begin + n]
        rows = launch.aligned(rows) if align else rows
        lists = Lists(few, many, every, few.new_zeros(3))
        for listed in (False, True) if exact else (False,):
            _filter(rows, table, lists, found, span, listed, tile, device)
            choice.center_choice_kernel[(triton.cdiv(len(rows), _CHOICE_BLOCK),)](
                found,
                lists,
                count,
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
            choice.center_recheck_kernel[(min(len(rows), 16 * device.processors),)](
                rows,
                centers,
                table,
                found,
                lists,
                own,
                d,
                rows.stride(0),
                table.hi.stride(0),
                spans,
                VEC=launch.vector_width(rows),
                KEEP=filtering.KEEP,
                SPANS=tiles.SPANS,
                PITCH=PITCH,
                BLOCK_D=_RECHECK_BLOCK,
                num_warps=_RECHECK_WARPS,
            )
        _scan(rows, centers, usable, lists, own)


def _filter(
    z: torch.Tensor,
    table: Table,
    lists: Lists,
    found: Found,
    span: int,  # centers
    listed: bool,  # the finer pass, over listed rows
    both: tiles.Tiles,
    device: launch.Device,
) -> None:
    (n, d), spans = z.shape, found.score.shape[1]
    tile = both.split if listed else both.first
    jobs = triton.cdiv(n, tile.block_n) * spans
    filtering.center_filter_kernel[(min(jobs, 4 * device.processors) if listed else jobs,)](
        z,
        table,
        lists,
        found,
        n,
        d,
        z.stride(0),
        table.hi.stride(0),
        len(table.hi),
        span,
        spans,
        LISTED=listed,
        SHIFTED=listed or z.dtype == torch.float32,
        SPLIT=listed,
        EVEN_K=d % tile.block_k == 0,
        VEC=launch.vector_width(z),
        GROUPS=filtering.GROUPS,
        KEEP=filtering.KEEP,
        **tile.constexprs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def _scan(
    z: torch.Tensor,
    centers: torch.Tensor,
    usable: torch.Tensor,
    lists: Lists | None,  # of which it does ``every``
    out: torch.Tensor,
) -> None:
    processors = launch.device_of(z).processors
    choice.center_scan_kernel[(min(len(z), 4 * processors),)](
        z,
        centers,
        usable,
        lists or Lists(*[usable] * 4),
        out,
        len(z),
        centers.shape[0],
        z.shape[1],
        z.stride(0),
        LISTED=lists is not None,
        VEC=launch.vector_width(z),
        BLOCK_C=_SCAN_C,
        BLOCK_D=_SCAN_D,
        num_warps=4,
    )
