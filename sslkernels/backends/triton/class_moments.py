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
reads 8 of its segments at a time; N classes of one row are N segments, found by counting runs of
sorted keys (one prefix sum over tiles), never by looping over classes. Work and scratch memory
follow the rows and the classes that occur. Nothing is read back by the host.

**K labelings, one read of z.** Sorting all rows by K labels would gather z K times from memory.
So rows are first cut into blocks such that one column slice of a block stays in the L2 cache
(``tiles.class_moments``): keys are (block, label), and programs run slice by slice, block by block,
the K labelings of a block back to back. The price is a segment per class and block instead of per
class; where that writes more than the K - 1 reads saved, there is one block and z is read K times.

Launches, for every K: keys, (torch) sort, segment count, (torch) prefix sum, segments; then per
labeling: merge, commit. With more than one block also a sort of the segments by class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton import launch, tiles

State = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_NO_ROW = torch.iinfo(torch.int64).max
_MERGE = 8  # segments that one step of the second stage reads
_COMMIT = 128  # segments per program of the last kernel


@triton.jit(do_not_specialize=["N", "C", "ignore_index", "block_rows", "key_stride"])
def class_keys_kernel(
    labels_ptr,  # [N] int64, one labeling
    keys_ptr,  # [N] int32 or int64 out: block * key_stride + label; key_stride - 1 for no class
    first_bad_ptr,  # [1] int64: smallest row with a label out of range
    N,
    C,
    ignore_index,
    block_rows,
    key_stride,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(labels_ptr + row, mask=row < N, other=0)
    used = (row < N) & (label != ignore_index)
    inside = (label >= 0) & (label < C)
    key = (row // block_rows) * key_stride + tl.where(used & inside, label, key_stride - 1)
    tl.store(keys_ptr + row, key.to(keys_ptr.dtype.element_ty), mask=row < N)
    bad = tl.min(tl.where(used & ~inside, row, 9223372036854775807), axis=0)
    if bad != 9223372036854775807:
        tl.atomic_min(first_bad_ptr, bad)


@triton.jit
def _tile_labels(keys_ptr, k, tile, N, tiles_per_block, key_stride, R: tl.constexpr):
    """The labels of a tile, ascending; key_stride - 1 where there is no class."""
    position = tile * R + tl.arange(0, R)
    inside = position < N
    key = tl.load(keys_ptr + k * N + position, mask=inside, other=0).to(tl.int64)
    label = tl.where(inside, key - (tile // tiles_per_block) * key_stride, key_stride - 1)
    return label.to(tl.int32)


@triton.jit(do_not_specialize=["N", "tiles_per_block", "key_stride", "num_tiles"])
def class_segments_kernel(
    keys_ptr,  # [K, N] sorted
    count_ptr,  # [K, num_tiles] int32 out: segments of each tile
    N,
    num_tiles,
    tiles_per_block,
    key_stride,
    R: tl.constexpr,
):
    tile = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1).to(tl.int64)
    label = _tile_labels(keys_ptr, k, tile, N, tiles_per_block, key_stride, R)
    # A row starts a segment unless the row before it, in this tile, has its label.
    offset = tl.arange(0, R)
    before = tile * R + offset - 1
    key = tl.load(keys_ptr + k * N + before, mask=(offset > 0) & (before < N), other=0).to(tl.int64)
    previous = (key - (tile // tiles_per_block) * key_stride).to(tl.int32)
    starts = (label < key_stride - 1) & ((offset == 0) | (previous != label))
    tl.store(count_ptr + k * num_tiles + tile, tl.sum(starts.to(tl.int32), axis=0))


_SEGMENT_SIZES = (
    "N", "D", "K", "stride_zn", "key_stride",
    "num_tiles", "tiles_per_block", "num_slices", "max_segments", "slices_outermost",
)  # fmt: skip


@triton.jit(do_not_specialize=_SEGMENT_SIZES)
def class_moments_kernel(
    z_ptr,  # [N, D] embeddings
    keys_ptr,  # [K, N] sorted keys
    rows_ptr,  # [K, N] int64: the row that each key belongs to
    ends_ptr,  # [K, num_tiles] int64: inclusive prefix sum of the tiles' segment counts
    class_ptr,  # [K, max_segments] int32 out
    count_ptr,  # [K, max_segments] int32 out: rows
    first_ptr,  # [K, max_segments] int64 out: first row
    dev_ptr,  # [K, max_segments, D] fp32 out
    square_ptr,  # [K, max_segments, num_slices] fp32 out
    N,
    D,
    K,
    stride_zn,
    key_stride,
    num_tiles,
    tiles_per_block,
    num_slices,
    max_segments,
    slices_outermost,  # 1: so that one slice of a block stays in L2
    VEC: tl.constexpr,
    R: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    D = D // VEC * VEC
    row_stride = (stride_zn // VEC * VEC).to(tl.int64)
    pid = tl.program_id(0)
    if slices_outermost == 1:
        per_slice = tl.cdiv(num_tiles, tiles_per_block) * tiles_per_block * K
        piece = pid // per_slice
        pid = pid % per_slice
    else:
        piece = pid % num_slices
        pid = pid // num_slices
    k = ((pid // tiles_per_block) % K).to(tl.int64)
    block = pid // (tiles_per_block * K)
    tile = (block * tiles_per_block + pid % tiles_per_block).to(tl.int64)
    if tile >= num_tiles:
        return

    label = _tile_labels(keys_ptr, k, tile, N, tiles_per_block, key_stride, R)
    filled = tl.sum((label < key_stride - 1).to(tl.int32), axis=0)
    segment = k * max_segments
    if tile > 0:
        segment += tl.load(ends_ptr + k * num_tiles + tile - 1)
    rows_ptr += k * N + tile * R
    cols = piece * BLOCK_D + tl.arange(0, BLOCK_D)
    col_mask = cols < D
    offset = tl.arange(0, R)
    lane = tl.arange(0, ROWS)

    begin = 0
    while begin < filled:
        current = tl.min(tl.where(offset >= begin, label, 2147483647), axis=0)
        end = tl.sum((label <= current).to(tl.int32), axis=0)
        first = tl.load(rows_ptr + begin)
        f = tl.load(z_ptr + first * row_stride + cols, mask=col_mask, other=0.0).to(tl.float32)
        dev = tl.zeros([BLOCK_D], tl.float32)
        square = tl.zeros([BLOCK_D], tl.float32)
        following = tl.load(rows_ptr + begin + lane, mask=begin + lane < end, other=0)
        start = begin
        while start < end:
            row = following
            live = (start + lane < end)[:, None] & col_mask[None, :]
            # The next rows' indices are fetched while these rows are on their way.
            ahead = start + ROWS + lane
            following = tl.load(rows_ptr + ahead, mask=ahead < end, other=0)
            x = tl.load(z_ptr + row[:, None] * row_stride + cols[None, :], mask=live, other=0.0)
            d = tl.where(live, x.to(tl.float32) - f[None, :], 0.0)
            dev += tl.sum(d, axis=0)
            square += tl.sum(d * d, axis=0)
            start += ROWS
        tl.store(dev_ptr + segment * D + cols, dev, mask=col_mask)
        tl.store(square_ptr + segment * num_slices + piece, tl.sum(square, axis=0))
        if piece == 0:
            tl.store(class_ptr + segment, current)
            tl.store(count_ptr + segment, end - begin)
            tl.store(first_ptr + segment, first)
        segment += 1
        begin = end


_MERGE_SIZES = ("D", "stride_zn", "num_slices", "max_segments", "no_class")


@triton.jit(do_not_specialize=_MERGE_SIZES)
def class_merge_kernel(
    z_ptr,  # [N, D] embeddings
    class_ptr,  # [max_segments] int32, ascending
    order_ptr,  # [max_segments] int64: the segment that each class_ptr entry belongs to
    count_ptr,  # [max_segments] int32
    first_ptr,  # [max_segments] int64
    dev_ptr,  # [max_segments, D] fp32
    square_ptr,  # [max_segments, num_slices] fp32
    state_count_ptr,  # [C] int64
    state_mean_ptr,  # [C, D] float64, updated
    total_ptr,  # [max_segments] int64 out: rows of the class, at its first segment
    m2_ptr,  # [max_segments, num_slices] float64 out: what M2 gains, at its first segment
    D,
    stride_zn,
    num_slices,
    max_segments,
    no_class,
    ORDERED: tl.constexpr,  # segments are in the order of class_ptr: order_ptr is not read
    VEC: tl.constexpr,
    MERGE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    D = D // VEC * VEC
    row_stride = (stride_zn // VEC * VEC).to(tl.int64)
    head = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1)
    own = tl.load(class_ptr + head)
    if own == no_class:
        return
    left = tl.load(class_ptr + head - 1, mask=head > 0, other=-1)
    if left == own:
        return

    cols = piece * BLOCK_D + tl.arange(0, BLOCK_D)
    col_mask = cols < D
    lane = tl.arange(0, MERGE)
    before = tl.load(state_count_ptr + own)
    mean_ptr = state_mean_ptr + own.to(tl.int64) * D + cols
    slot = head if ORDERED else tl.load(order_ptr + head)
    row = tl.load(first_ptr + slot)
    f = tl.load(z_ptr + row * row_stride + cols, mask=col_mask, other=0.0)
    mean = tl.load(mean_ptr, mask=col_mask, other=0.0)
    r = tl.where(before > 0, mean, f.to(tl.float32).to(tl.float64))

    total = tl.zeros([], tl.int64)
    shift = tl.zeros([BLOCK_D], tl.float64)  # S
    spread = tl.zeros([BLOCK_D], tl.float64)  # sum_s n_s delta_s^2
    within = tl.zeros([], tl.float64)  # sum_s square_s - |dev_s|^2 / n_s
    begin = head
    more = True
    while more:
        index = begin + lane
        live = index < max_segments
        live &= tl.load(class_ptr + index, mask=live, other=-1) == own
        slots = index if ORDERED else tl.load(order_ptr + index, mask=live, other=0)
        n = tl.load(count_ptr + slots, mask=live, other=0)
        rows = tl.load(first_ptr + slots, mask=live, other=0)
        square = tl.load(square_ptr + slots * num_slices + piece, mask=live, other=0.0)
        mask = live[:, None] & col_mask[None, :]
        dev = tl.load(dev_ptr + slots[:, None] * D + cols[None, :], mask=mask, other=0.0)
        dev = dev.to(tl.float64)
        x = tl.load(z_ptr + rows[:, None] * row_stride + cols[None, :], mask=mask, other=0.0)
        weight = n.to(tl.float64)[:, None]
        average = dev / tl.maximum(weight, 1.0)
        delta = x.to(tl.float32).to(tl.float64) + average - r[None, :]
        delta = tl.where(mask, delta, 0.0)
        shift += tl.sum(weight * delta, axis=0)
        spread += tl.sum(weight * delta * delta, axis=0)
        inner = square.to(tl.float64) - tl.sum(dev * average, axis=1)
        within += tl.sum(tl.where(inner < 0.0, 0.0, inner), axis=0)  # NaN stays NaN
        total += tl.sum(n.to(tl.int64), axis=0)
        begin += MERGE
        more = tl.sum(live.to(tl.int32), axis=0) == MERGE

    all_rows = (before + total).to(tl.float64)
    tl.store(mean_ptr, r + shift / all_rows, mask=col_mask)
    gain = within + tl.sum(spread - shift * shift / all_rows, axis=0)
    tl.store(m2_ptr + head * num_slices + piece, tl.where(gain < 0.0, 0.0, gain))
    if piece == 0:
        tl.store(total_ptr + head, total)


@triton.jit(do_not_specialize=["num_slices", "max_segments", "no_class"])
def class_commit_kernel(
    class_ptr,  # [max_segments] int32, ascending
    total_ptr,  # [max_segments] int64
    m2_ptr,  # [max_segments, num_slices] float64
    state_count_ptr,  # [C] int64, updated
    state_m2_ptr,  # [C] float64, updated
    labels_ptr,  # [N] int64
    report_ptr,  # [2] int64: the first bad row or a huge number; out: (row or -1, value)
    num_slices,
    max_segments,
    no_class,
    BLOCK: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = head < max_segments
    own = tl.load(class_ptr + head, mask=inside, other=-1)
    left = tl.load(class_ptr + head - 1, mask=inside & (head > 0), other=-1)
    inside &= (own != left) & (own != no_class)
    gain = tl.zeros([BLOCK], tl.float64)
    for piece in range(num_slices):
        gain += tl.load(m2_ptr + head * num_slices + piece, mask=inside, other=0.0)
    total = tl.load(total_ptr + head, mask=inside, other=0)
    count = tl.load(state_count_ptr + own, mask=inside, other=0)
    m2 = tl.load(state_m2_ptr + own, mask=inside, other=0.0)
    tl.store(state_count_ptr + own, count + total, mask=inside)
    tl.store(state_m2_ptr + own, m2 + gain, mask=inside)
    if tl.program_id(0) == 0:
        row = tl.load(report_ptr)
        fine = row == 9223372036854775807
        value = tl.load(labels_ptr + row, mask=~fine, other=0)
        tl.store(report_ptr, tl.where(fine, -1, row))
        tl.store(report_ptr + 1, value)


def class_moments_update(
    z: torch.Tensor, labels: torch.Tensor, states: Sequence[State], ignore_index: int
) -> torch.Tensor:
    """Merges a batch into K states, in place, reading z once; never waits for the device.

    Args:
        z: [N, D] fp16, bf16 or fp32. Columns must be contiguous to stay so on their way through the
            kernels: anything else is copied (``launch.unit_columns``).
        labels: [K, N] int64, contiguous.
        states: K tuples (counts int64 [C_k], mean float64 [C_k, D], m2 float64 [C_k]).
        ignore_index: rows with this label are skipped.

    Returns:
        int64 [K, 2]: the first row whose label is out of range and that label; -1 and 0 if there is
        none. Such rows leave the states alone; all others are merged.
    """
    return _update(z, labels, states, ignore_index, None)


def _update(
    z: torch.Tensor,
    labels: torch.Tensor,
    states: Sequence[State],
    ignore_index: int,
    tile: tiles.ClassMoments | None,
) -> torch.Tensor:
    k, n = labels.shape
    report = labels.new_full((k, 2), _NO_ROW)
    if n == 0:
        report[:, 0], report[:, 1] = -1, 0
        return report
    with launch.on_device(z):
        z = launch.unit_columns(z)
        classes = [counts.shape[0] for counts, _, _ in states]
        tile = tile or tiles.class_moments(n, z.shape[1], classes, z.dtype)
        key_stride = max(classes) + 1
        block_rows = tile.block_tiles * tile.rows
        num_tiles = triton.cdiv(n, tile.rows)
        blocks = triton.cdiv(num_tiles, tile.block_tiles)
        keys = _sorted_keys(labels, report, classes, ignore_index, block_rows, blocks, key_stride)
        segments = _segments(z, *keys, tile, key_stride, min(n, blocks * max(classes)))
        for i, state in enumerate(states):
            own = [t[i] for t in segments]
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
        class_keys_kernel[(triton.cdiv(n, 1024),)](
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
    tile: tiles.ClassMoments,
    key_stride: int,
    runs: int,
) -> list[torch.Tensor]:
    """What class_moments_kernel stores; ``runs``: the most runs of equal keys there can be."""
    (n, d), k = z.shape, len(keys)
    num_tiles = triton.cdiv(n, tile.rows)
    num_slices = triton.cdiv(d, tile.block_d)
    counts = keys.new_empty((k, num_tiles), dtype=torch.int32)
    class_segments_kernel[(num_tiles, k)](
        keys, counts, n, num_tiles, tile.block_tiles, key_stride, R=tile.rows, num_warps=1
    )
    ends = counts.cumsum(dim=1, dtype=torch.int64)
    # Every run and every tile border starts a segment. A multiple of 4 keeps labelings aligned.
    size = triton.cdiv(num_tiles + runs, 4) * 4
    owner = keys.new_full((k, size), key_stride - 1, dtype=torch.int32)
    count = keys.new_empty((k, size), dtype=torch.int32)
    first = rows.new_empty((k, size))
    dev = z.new_empty((k, size, d), dtype=torch.float32)
    square = z.new_empty((k, size, num_slices), dtype=torch.float32)
    blocks = triton.cdiv(num_tiles, tile.block_tiles)
    class_moments_kernel[(blocks * tile.block_tiles * k * num_slices,)](
        z,
        keys,
        rows,
        ends,
        owner,
        count,
        first,
        dev,
        square,
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
    return [owner, count, first, dev, square]


def _merge(
    z: torch.Tensor,
    state: State,
    segments: list[torch.Tensor],
    labels: torch.Tensor,
    report: torch.Tensor,
    tile: tiles.ClassMoments,
    key_stride: int,
    scattered: bool,
) -> None:
    """Adds one labeling's segments to its state; ``scattered``: they are ordered by block first."""
    owner, count, first, dev, square = segments
    counts, mean, m2 = state
    size, num_slices = square.shape
    order = first
    if scattered:
        owner, order = torch.sort(owner, stable=True)
    total = torch.empty_like(first)
    gain = square.new_empty(square.shape, dtype=torch.float64)
    class_merge_kernel[(size, num_slices)](
        z,
        owner,
        order,
        count,
        first,
        dev,
        square,
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
        VEC=launch.vector_width(z),
        MERGE=_MERGE,
        BLOCK_D=tile.block_d,
        num_warps=_merge_warps(tile.block_d),
    )
    class_commit_kernel[(triton.cdiv(size, _COMMIT),)](
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


def _merge_warps(block_d: int) -> int:
    """Few enough float64 values per thread that they stay in registers."""
    return max(2, _MERGE * block_d // 256)


def aot_cases(device: launch.Device) -> Iterator[launch.AotCase]:
    """Every configuration that the launchers can pick."""
    for key in ("i32", "i64"):
        yield launch.AotCase(
            class_keys_kernel,
            key,
            {"labels_ptr": "*i64", "keys_ptr": f"*{key}", "first_bad_ptr": "*i64"}
            | dict.fromkeys(("N", "C", "ignore_index", "block_rows", "key_stride"), "i32"),
            {"BLOCK": 1024},
            4,
            3,
            "other",
        )
        for rows in tiles.CLASS_TILE_ROWS:
            yield launch.AotCase(
                class_segments_kernel,
                f"{key} {rows}",
                {"keys_ptr": f"*{key}", "count_ptr": "*i32"}
                | dict.fromkeys(("N", "num_tiles", "tiles_per_block", "key_stride"), "i32"),
                {"R": rows},
                1,
                3,
                "other",
            )
    for dtype, name in launch.TRITON_TYPE.items():
        for tile in tiles.class_moments_candidates(dtype):
            yield launch.AotCase(
                class_moments_kernel,
                f"{name} {tile}",
                {
                    "z_ptr": f"*{name}",
                    "keys_ptr": "*i32",
                    "rows_ptr": "*i64",
                    "ends_ptr": "*i64",
                    "class_ptr": "*i32",
                    "count_ptr": "*i32",
                    "first_ptr": "*i64",
                    "dev_ptr": "*fp32",
                    "square_ptr": "*fp32",
                    **dict.fromkeys(_SEGMENT_SIZES, "i32"),
                },
                {
                    "VEC": 16 // dtype.itemsize,
                    "R": tile.rows,
                    "ROWS": tile.row_step,
                    "BLOCK_D": tile.block_d,
                },
                tile.num_warps,
                3,
                "streaming",
            )
        for block_d in sorted({t.block_d for t in tiles.class_moments_candidates(dtype)}):
            for ordered in (False, True):
                yield launch.AotCase(
                    class_merge_kernel,
                    f"{name} {block_d}{'' if ordered else ' reordered'}",
                    {
                        "z_ptr": f"*{name}",
                        "class_ptr": "*i32",
                        "order_ptr": "*i64",
                        "count_ptr": "*i32",
                        "first_ptr": "*i64",
                        "dev_ptr": "*fp32",
                        "square_ptr": "*fp32",
                        "state_count_ptr": "*i64",
                        "state_mean_ptr": "*fp64",
                        "total_ptr": "*i64",
                        "m2_ptr": "*fp64",
                        **dict.fromkeys(_MERGE_SIZES, "i32"),
                    },
                    {
                        "ORDERED": ordered,
                        "VEC": 16 // dtype.itemsize,
                        "MERGE": _MERGE,
                        "BLOCK_D": block_d,
                    },
                    _merge_warps(block_d),
                    3,
                    "other",
                )
    yield launch.AotCase(
        class_commit_kernel,
        str(_COMMIT),
        {
            "class_ptr": "*i32",
            "total_ptr": "*i64",
            "m2_ptr": "*fp64",
            "state_count_ptr": "*i64",
            "state_m2_ptr": "*fp64",
            "labels_ptr": "*i64",
            "report_ptr": "*i64",
            **dict.fromkeys(("num_slices", "max_segments", "no_class"), "i32"),
        },
        {"BLOCK": _COMMIT},
        1,
        3,
        "other",
    )
