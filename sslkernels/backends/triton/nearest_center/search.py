"""Nearest centers on the GPU: a low-precision filter with a proven bound, float64 for the rest.

The steps, for a chunk of rows (so that the workspace stays small) and every set of centers:

1. once: centers to the table that the filter reads (``center_table``);
2. filter all rows, one launch for all sets (``center_filter.center_filter_kernel``);
3. decide, or list the rows with a few candidates, too many, or no bound (``center_choice``);
4. filter the rows with too many again, with split operands and x - g; decide or list;
5. fp32 scores of the candidates of listed rows, float64 distances to those that fp32 cannot tell
   apart, or to every center where no bound holds.

``exact=False`` stops after 3; rows without a bound still take 5. Problems too small to fill the
device go straight to float64. The host waits for nothing: lists and their lengths stay on the
device, and programs without a row to do return at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton

from sslkernels.backends.triton.core import class_tiles, launch
from sslkernels.backends.triton.nearest_center import choice
from sslkernels.backends.triton.nearest_center import filter as filtering
from sslkernels.backends.triton.nearest_center.table import (
    PITCH,
    CenterSet,
    CenterTable,
    center_table,
    usable_centers,
)

_CHOICE_BLOCK = 128
_RECHECK_BLOCK, _RECHECK_WARPS = 256, 1
_SCAN_C, _SCAN_D = 32, 32
_CHOSEN = class_tiles.CenterCuts()


def nearest_center_forward(z: torch.Tensor, centers: torch.Tensor, exact: bool) -> torch.Tensor:
    """int64 [N]: the nearest center of every row; see :func:`nearest_centers`."""
    return nearest_centers(z, [centers], exact)[0]


def nearest_centers(
    z: torch.Tensor,
    centers: Sequence[torch.Tensor],
    exact: bool,
    cuts: class_tiles.CenterCuts = _CHOSEN,
) -> tuple[torch.Tensor, ...]:
    """For each of several sets of centers, the nearest center of every row.

    Args:
        z: [N, D] fp16, bf16 or fp32. Columns must be contiguous to stay so: anything else is copied
            (``launch.unit_columns``).
        centers: sets [C_k, D], contiguous fp32 or fp64. A center that is not finite is never
            chosen.
        exact: the argmin of float64 distances, ties to the lowest class; otherwise the best score
            of one low-precision pass.
        cuts: how the work is cut.

    Returns:
        One int64 [N] per set: -1 for rows that are not finite, and where no center is usable.
    """
    z = launch.unit_columns(z)
    out = [torch.empty(z.shape[0], dtype=torch.int64, device=z.device) for _ in centers]
    with launch.on_device(z):
        used = [k for k, c in enumerate(centers) if c.shape[0] and z.shape[0]]
        for k in set(range(len(centers))) - set(used):
            out[k].fill_(-1)
        most = class_tiles.CENTER_SCAN if cuts.scan is None else cuts.scan
        small = [k for k in used if z.shape[0] * centers[k].numel() <= most]
        for k in small:
            _scan(z, centers[k], usable_centers(centers[k]), None, None, out[k])
        large = [k for k in used if k not in small]
        if large:
            _filtered(z, [centers[k] for k in large], exact, [out[k] for k in large], cuts)
    return tuple(out)


def _filtered(
    z: torch.Tensor,
    centers: Sequence[torch.Tensor],
    exact: bool,
    out: Sequence[torch.Tensor],
    cuts: class_tiles.CenterCuts,
) -> None:
    device = launch.device_of(z)
    tile = cuts.tiles or class_tiles.center_tiles(len(z), z.dtype, device)
    table = center_table(z, centers, tile, device, cuts.spans)
    spans, sets = len(table.spans), len(centers)
    row_bytes = spans * (8 * filtering.KEEP + 4)
    n = min(len(z), cuts.rows or max(1024, class_tiles.CENTER_WORKSPACE // row_bytes))
    score = z.new_empty((n, spans, filtering.KEEP), dtype=torch.float32)
    index = torch.empty_like(score, dtype=torch.int32)
    rest = z.new_empty((n, spans), dtype=torch.float32)
    error = z.new_empty((sets, n), dtype=torch.float32)
    limit = z.new_empty(n, dtype=torch.float32)
    lists = z.new_empty((3, n), dtype=torch.int32)
    few, many, every = lists
    for begin in range(0, len(z), n):
        rows = z[begin : begin + n]
        found = (score, index, rest, error)
        _filter(rows, None, None, table, 0, spans, *found, tile.first, device)
        for k, one in enumerate(table.sets):
            own = out[k][begin : begin + n]
            counts = torch.zeros(3, dtype=torch.int32, device=z.device)
            passes = (False, True) if exact else (False,)
            for listed in passes:
                if listed:
                    at = (one.first_span, one.num_spans)
                    _filter(rows, many, counts[1:], table, *at, *found, tile.split, device)
                choice.center_choice_kernel[(triton.cdiv(len(rows), _CHOICE_BLOCK),)](
                    score,
                    index,
                    rest,
                    error[k],
                    one.count,
                    many,
                    few,
                    every,
                    counts,
                    limit,
                    own,
                    len(rows),
                    one.first_span,
                    one.num_spans,
                    spans,
                    EXACT=exact,
                    LISTED=listed,
                    KEEP=filtering.KEEP,
                    BLOCK=_CHOICE_BLOCK,
                    num_warps=4,
                )
            if exact:
                _recheck(rows, table, one, score, index, limit, few, counts, own, device)
            _scan(rows, one.centers, one.usable, every, counts, own)


def _filter(
    z: torch.Tensor,
    listed: torch.Tensor | None,
    count: torch.Tensor | None,
    table: CenterTable,
    first_span: int,
    num_spans: int,
    score: torch.Tensor,
    index: torch.Tensor,
    rest: torch.Tensor,
    error: torch.Tensor,
    tile: class_tiles.CenterTile,
    device: launch.Device,
) -> None:
    """One pass over all rows, or the finer one over listed rows."""
    (n, d), split = z.shape, listed is not None
    jobs = triton.cdiv(n, tile.block_n) * num_spans
    filtering.center_filter_kernel[(min(jobs, 4 * device.processors) if split else jobs,)](
        z,
        listed if listed is not None else index,
        count if count is not None else index,
        table.hi if split else table.first,
        table.lo,
        table.h_shifted if split else table.h_first,
        table.g,
        table.bounds,
        table.spans,
        score,
        index,
        rest,
        error,
        error.stride(0),
        n,
        d,
        z.stride(0),
        table.hi.stride(0),
        first_span,
        num_spans,
        len(table.spans),
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
    one: CenterSet,
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
        one.centers,
        table.hi,
        table.lo,
        table.h_shifted,
        table.g,
        table.bounds,
        table.spans,
        score,
        index,
        limit,
        few,
        counts,
        out,
        z.shape[1],
        z.stride(0),
        table.hi.stride(0),
        one.first_span,
        one.num_spans,
        len(table.spans),
        VEC=launch.vector_width(z),
        KEEP=filtering.KEEP,
        SPANS=class_tiles.CENTER_SPANS,
        PITCH=PITCH,
        BLOCK_D=_RECHECK_BLOCK,
        num_warps=_RECHECK_WARPS,
    )


def _scan(
    z: torch.Tensor,
    centers: torch.Tensor,
    usable: torch.Tensor,
    every: torch.Tensor | None,
    counts: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    listed = every is not None and counts is not None
    processors = launch.device_of(z).processors
    choice.center_scan_kernel[(min(len(z), 4 * processors),)](
        z,
        centers,
        usable,
        every if listed else usable,
        counts if listed else usable,
        out,
        len(z),
        centers.shape[0],
        z.shape[1],
        z.stride(0),
        LISTED=listed,
        VEC=launch.vector_width(z),
        BLOCK_C=_SCAN_C,
        BLOCK_D=_SCAN_D,
        num_warps=4,
    )
