r"""Counts, means and M2 of every class: z [N, D] read once for K labelings.

Rows are sorted by label, and a program walks a **tile** of R consecutive sorted rows over a slice
of the columns. A tile is made of **segments**, one per class in it. For a segment of n rows with
first row f the program stores, in fp32,

    dev = sum_i (x_i - f)   [D]        square = sum_id (x_id - f_d)^2

and the second stage merges the segments of a class with the state it had, in float64 around a
reference r (the state's mean, or the first row if the class was empty; Chan, Golub, LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances", 1979)::

    delta_s = f_s + dev_s / n_s - r             S = sum_s n_s delta_s
    mean <- r + S / (n_state + sum_s n_s)
    M2   <- M2 + sum_s [square_s - |dev_s|^2 / n_s + n_s |delta_s|^2]
               - |S|^2 / (n_state + sum_s n_s)

**Digits.** Differences to f are formed before anything is summed, so a common offset costs nothing.
Subtracting |dev|^2 / n from ``square`` magnifies its relative rounding error by
``square / (square - |dev|^2/n) = 1 + n |mean - f|^2 / M2_segment <= n <= R``, with equality only if
f alone differs from the other rows; a segment is never longer than R = 512, so fp32 keeps M2 to
512 * 2^-24 * a small factor in that worst case, and to 2^-22 or so on ordinary data. ``square``
overflows where a row lies further than 1.8e19 from its segment's first row.

**Any distribution of labels.** One class with all the rows is many tiles, and the second stage
reads a few of its segments at a time; N classes of one row are N segments, found by counting runs
of sorted keys (one prefix sum over tiles), never by looping over classes. Work and scratch memory
follow the rows and the classes that occur. Nothing is read back by the host.

**K labelings, one read of z.** Sorting all rows by K labels would gather z K times from memory.
So rows are first cut into blocks such that one column slice of a block stays in the L2 cache
(``tiles.choose``): keys are (block, label), and programs run slice by slice, block by
block, the K labelings of a block back to back. The price is a segment per class and block instead
of per class; where that writes more than the K - 1 reads saved, there is one block and z is read K
times.

Launches, for every K: keys, (torch) sort, segment count, (torch) prefix sum, segments; then per
labeling: merge, commit. With more than one block also a sort of the segments by class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton

from sslkernels.backends.triton.class_moments import kernels, tiles
from sslkernels.backends.triton.core import launch

State = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_NO_ROW = torch.iinfo(torch.int64).max
_COMMIT = 128  # segments per program of the last kernel


def class_moments_update(
    z: torch.Tensor,
    labels: torch.Tensor,
    states: Sequence[State],
    ignore_index: int,
    tile: tiles.Tile | None = None,
) -> torch.Tensor:
    """Merges a batch into K states, in place, reading z once; never waits for the device.

    Args:
        z: [N, D] fp16, bf16 or fp32. Columns must be contiguous to stay so on their way through the
            kernels: anything else is copied (``launch.unit_columns``).
        labels: [K, N] int64, contiguous.
        states: K tuples (counts int64 [C_k], mean float64 [C_k, D], m2 float64 [C_k]).
        ignore_index: rows with this label are skipped.
        tile: how rows and columns are cut; chosen from the shape unless given.

    Returns:
        int64 [K, 2]: the first row whose label is out of range and that label; -1 and 0 if there is
        none. Such rows leave the states alone; all others are merged.
    """
    k, n = labels.shape
    report = labels.new_full((k, 2), _NO_ROW)
    if n == 0:
        report[:, 0], report[:, 1] = -1, 0
        return report
    with launch.on_device(z):
        z = launch.unit_columns(z)
        classes = [counts.shape[0] for counts, _, _ in states]
        tile = tile or tiles.choose(n, z.shape[1], classes, z.dtype)
        key_stride = max(classes) + 1
        block_rows = tile.block_tiles * tile.rows
        num_tiles = triton.cdiv(n, tile.rows)
        blocks = triton.cdiv(num_tiles, tile.block_tiles)
        keys = _sorted_keys(labels, report, classes, ignore_index, block_rows, blocks, key_stride)
        segments = _segments(z, *keys, tile, key_stride, min(n, blocks * max(classes)))
        for i, state in enumerate(states):
            own = kernels.Segments(*(t[i] for t in segments))
            _merge(z, state, own, labels[i], report[i], tile, key_stride, blocks > 1)
    return report


def _sorted_keys(
    labels: torch.Tensor,
    report: torch.Tensor,
    classes: list[int],
    ignore_index: int,
    block_rows: int,
    blocks: int,
    key_stride: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """([K, N] keys ascending, [K, N] the rows they belong to)."""
    k, n = labels.shape
    dtype = torch.int32 if blocks * key_stride < 2**31 else torch.int64
    keys = torch.empty_like(labels, dtype=dtype)
    for i in range(k):
        kernels.class_keys_kernel[(triton.cdiv(n, 1024),)](
            labels[i],
            keys[i],
            report[i],
            n,
            classes[i],
            ignore_index,
            block_rows,
            key_stride,
            BLOCK=1024,
            num_warps=4,
        )
    # Stable: rows of a class stay in order, so that the same input gives the same bits.
    ordered, rows = torch.sort(keys, dim=1, stable=True)
    return ordered, rows


def _segments(
    z: torch.Tensor,
    keys: torch.Tensor,
    rows: torch.Tensor,
    tile: tiles.Tile,
    key_stride: int,
    runs: int,
) -> kernels.Segments:
    """What class_moments_kernel stores; ``runs``: the most runs of equal keys there can be."""
    (n, d), k = z.shape, len(keys)
    num_tiles = triton.cdiv(n, tile.rows)
    num_slices = triton.cdiv(d, tile.block_d)
    counts = keys.new_empty((k, num_tiles), dtype=torch.int32)
    kernels.class_segments_kernel[(num_tiles, k)](
        keys, counts, n, num_tiles, tile.block_tiles, key_stride, R=tile.rows, num_warps=1
    )
    ends = counts.cumsum(dim=1, dtype=torch.int64)
    # Every run and every tile border starts a segment. A multiple of 4 keeps labelings aligned.
    size = triton.cdiv(num_tiles + runs, 4) * 4
    dev = z.new_empty((k, size, d), dtype=torch.float32)
    segments = kernels.Segments(
        keys.new_full((k, size), key_stride - 1, dtype=torch.int32),
        keys.new_empty((k, size), dtype=torch.int32),
        rows.new_empty((k, size)),
        dev,
        dev.new_empty((k, size, num_slices)),
    )
    blocks = triton.cdiv(num_tiles, tile.block_tiles)
    kernels.class_moments_kernel[(blocks * tile.block_tiles * k * num_slices,)](
        z,
        keys,
        rows,
        ends,
        segments,
        n,
        d,
        k,
        z.stride(0),
        key_stride,
        num_tiles,
        tile.block_tiles,
        num_slices,
        size,
        int(blocks > 1),
        VEC=launch.vector_width(z),
        R=tile.rows,
        ROWS=tile.row_step,
        BLOCK_D=tile.block_d,
        num_warps=tile.num_warps,
    )
    return segments


def _merge(
    z: torch.Tensor,
    state: State,
    segments: kernels.Segments,
    labels: torch.Tensor,
    report: torch.Tensor,
    tile: tiles.Tile,
    key_stride: int,
    scattered: bool,
) -> None:
    """Adds one labeling's segments to its state; ``scattered``: they are ordered by block first."""
    counts, mean, m2 = state
    size, num_slices = segments.square.shape
    owner, order = segments.owner, segments.first
    if scattered:
        owner, order = torch.sort(owner, stable=True)
    total = torch.empty_like(segments.first)
    vec = launch.vector_width(z)
    # Segments that a step reads, and warps: few enough float64 values per thread that they stay in
    # registers. Without 128-bit loads their addresses take registers, too.
    merge = 8 if vec > 1 else 4
    gain = torch.empty_like(segments.square, dtype=torch.float64)
    kernels.class_merge_kernel[(size, num_slices)](
        z,
        owner,
        order,
        segments,
        counts,
        mean,
        total,
        gain,
        z.shape[1],
        z.stride(0),
        num_slices,
        size,
        key_stride - 1,
        ORDERED=not scattered,
        VEC=vec,
        MERGE=merge,
        BLOCK_D=tile.block_d,
        num_warps=max(2, merge * tile.block_d // 256),
    )
    kernels.class_commit_kernel[(triton.cdiv(size, _COMMIT),)](
        owner,
        total,
        gain,
        counts,
        m2,
        labels,
        report,
        num_slices,
        size,
        key_stride - 1,
        BLOCK=_COMMIT,
        num_warps=1,
    )
