"""The kernels of ``update.py``, in the order of their launches; the mathematics is there."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch


class Segments(NamedTuple):
    """What a tile's segments leave, of K labelings or of one."""

    owner: torch.Tensor  # [K, max_segments] int32: their classes
    count: torch.Tensor  # [K, max_segments] int32: rows
    first: torch.Tensor  # [K, max_segments] int64: first row
    dev: torch.Tensor  # [K, max_segments, D] fp32
    square: torch.Tensor  # [K, max_segments, num_slices] fp32


@launch.kernel
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


@launch.kernel
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


@launch.kernel
def class_moments_kernel(
    z_ptr,  # [N, D] embeddings
    keys_ptr,  # [K, N] sorted keys
    rows_ptr,  # [K, N] int64: the row that each key belongs to
    ends_ptr,  # [K, num_tiles] int64: inclusive prefix sum of the tiles' segment counts
    segments: tl.tuple,  # Segments out
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
        tl.store(segments.dev + segment * D + cols, dev, mask=col_mask)
        tl.store(segments.square + segment * num_slices + piece, tl.sum(square, axis=0))
        if piece == 0:
            tl.store(segments.owner + segment, current)
            tl.store(segments.count + segment, end - begin)
            tl.store(segments.first + segment, first)
        segment += 1
        begin = end


@launch.kernel
def class_merge_kernel(
    z_ptr,  # [N, D] embeddings
    class_ptr,  # [max_segments] int32, ascending
    order_ptr,  # [max_segments] int64: the segment that each class_ptr entry belongs to
    segments: tl.tuple,  # Segments of one labeling
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
    row = tl.load(segments.first + slot)
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
        n = tl.load(segments.count + slots, mask=live, other=0)
        rows = tl.load(segments.first + slots, mask=live, other=0)
        square = tl.load(segments.square + slots * num_slices + piece, mask=live, other=0.0)
        mask = live[:, None] & col_mask[None, :]
        dev = tl.load(segments.dev + slots[:, None] * D + cols[None, :], mask=mask, other=0.0)
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


@launch.kernel
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
