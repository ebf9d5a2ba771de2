"""From candidates to the nearest center: the rows that the filter decides, and those that float64
decides.

The filter (``filter.py``) leaves, per row and span, KEEP candidates, the best score that is not
among them, and per row the error bound E. With s~ the row's best score:

* one score within 2 E of it: that center is the nearest;
* a few, and all of them known: the row joins ``few``. fp32 products with the split centers, whose
  error is hundreds of times smaller, narrow these down, and float64 decides among what is left;
* more than are known: the row joins ``many``; after a first pass these get a finer one, after that
  they join ``every``;
* E not finite: the row joins ``every``, where every center is compared in float64.

Lists are filled through an atomic counter, in no particular order; every row's answer is its own,
so the result does not depend on it. float64 distances are sums of (x - mu)^2 of the very numbers
given; ties go to the lowest class.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch


@triton.jit
def _append(list_ptr, count_ptr, row, wanted):
    """Adds the wanted rows of this program to a list."""
    n = wanted.to(tl.int32)
    total = tl.sum(n, axis=0)
    if total > 0:
        start = tl.atomic_add(count_ptr, total)
        tl.store(list_ptr + start + tl.cumsum(n, axis=0) - n, row.to(tl.int32), mask=wanted)


@launch.kernel
def center_choice_kernel(
    found: tl.tuple,  # Found; out: limit
    lists: tl.tuple,  # Lists out; the rows to look at are ``many`` (LISTED), else all
    usable_ptr,  # int64: how many centers are usable
    out_ptr,  # [N] int64 out
    N,
    spans,
    EXACT: tl.constexpr,
    LISTED: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if LISTED:
        live = entry < tl.load(lists.counts + 1)
        row = tl.load(lists.many + entry, mask=live, other=0).to(tl.int64)
    else:
        live = entry < N
        row = entry.to(tl.int64)
    error = tl.load(found.error + row, mask=live, other=0.0)
    none = tl.load(usable_ptr) == 0
    at = row * spans

    best = tl.full([BLOCK], float("inf"), tl.float32)
    winner = tl.full([BLOCK], -1, tl.int32)
    rest = tl.full([BLOCK], float("inf"), tl.float32)
    for s in range(spans):
        score = tl.load(found.score + (at + s) * KEEP, mask=live, other=float("inf"))
        index = tl.load(found.index + (at + s) * KEEP, mask=live, other=-1)
        winner = tl.where(score < best, index, winner)
        best = tl.minimum(best, score)
        rest = tl.minimum(rest, tl.load(found.rest + at + s, mask=live, other=float("inf")))
    limit = best + 2.0 * error
    tl.store(found.limit + row, limit, mask=live)
    near = tl.zeros([BLOCK], tl.int32)
    if EXACT:
        keep = tl.arange(0, KEEP)[None, :]
        for s in range(spans):
            scores = tl.load(
                found.score + ((at + s) * KEEP)[:, None] + keep,
                mask=live[:, None],
                other=float("inf"),
            )
            near += tl.sum((scores <= limit[:, None]).to(tl.int32), axis=1)
    unknown = live & ~(error < 3.4e38) & ~none
    known = live & ~unknown & ~none
    few = tl.zeros([BLOCK], tl.int1)
    many = tl.zeros([BLOCK], tl.int1)
    if EXACT:
        many = known & ~(rest > limit)
        few = known & ~many & (near > 1)
        _append(lists.few, lists.counts, row, few)
        if not LISTED:
            _append(lists.many, lists.counts + 1, row, many)
    if LISTED:
        unknown |= many
    _append(lists.every, lists.counts + 2, row, unknown)
    answer = tl.where(none, -1, winner).to(tl.int64)
    tl.store(out_ptr + row, answer, mask=live & ~few & ~many & ~unknown)


@launch.kernel
def center_recheck_kernel(
    z_ptr,  # [N, D] rows
    centers_ptr,  # [C, D] fp32 or fp64
    table: tl.tuple,  # Table
    found: tl.tuple,  # Found
    lists: tl.tuple,  # Lists: the rows to do are ``few``
    out_ptr,  # [N] int64 out
    D,
    stride_zn,
    pitch,
    spans,
    VEC: tl.constexpr,
    KEEP: tl.constexpr,
    SPANS: tl.constexpr,  # a power of two, spans or more
    PITCH: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The nearest of a row's candidates: by fp32 scores s~ = h - x'.(hi + lo), two at a time, and
    where these do not tell, by distances in float64. In the terms of ``filter.py``, with R the
    largest ||m - hi - lo|| and sums of D / BLOCK_D + 16 steps,

        |s~ - s| <= B R + (D / BLOCK_D + 24) u (B (M + R) + H)
    """
    D = D // VEC * VEC
    pitch = pitch // PITCH * PITCH
    row_stride = (stride_zn // VEC * VEC).to(tl.int64)
    none: tl.constexpr = 2147483647
    count = tl.load(lists.counts)
    lane = tl.arange(0, SPANS * KEEP)
    unit = (tl.cdiv(D, BLOCK_D) + 24) * 5.97e-8
    r_max = tl.load(table.bounds + 3)
    slope = r_max + unit * (tl.load(table.bounds) + r_max)
    floor = unit * tl.load(table.bounds + 5) + D * 7.53e-37
    length = tl.load(table.bounds + 6)
    entry = tl.program_id(0)
    while entry < count:
        row = tl.load(lists.few + entry).to(tl.int64)
        x_ptr = z_ptr + row * row_stride
        at = row * spans * KEEP + lane
        inside = lane < spans * KEEP
        score = tl.load(found.score + at, mask=inside, other=float("inf"))
        index = tl.load(found.index + at, mask=inside, other=none)
        index = tl.where(score <= tl.load(found.limit + row), index, none)

        fine = tl.full([SPANS * KEEP], float("inf"), tl.float32)
        left = index
        square = 0.0
        first = tl.min(left, axis=0)
        while first < none:
            other = tl.min(tl.where(left > first, left, none), axis=0)
            again = tl.where(other < none, other, first)
            one_at = first.to(tl.int64) * pitch
            two_at = again.to(tl.int64) * pitch
            dot_one = tl.zeros([BLOCK_D], tl.float32)
            dot_two = tl.zeros([BLOCK_D], tl.float32)
            squares = tl.zeros([BLOCK_D], tl.float32)
            for start in range(0, D, BLOCK_D):
                d = start + tl.arange(0, BLOCK_D)
                x = tl.load(x_ptr + d, mask=d < D, other=0.0).to(tl.float32)
                x -= tl.load(table.g + d, mask=d < D, other=0.0)
                m = tl.load(table.hi + one_at + d, mask=d < D, other=0.0).to(tl.float32)
                m += tl.load(table.lo + one_at + d, mask=d < D, other=0.0).to(tl.float32)
                dot_one += x * m
                m = tl.load(table.hi + two_at + d, mask=d < D, other=0.0).to(tl.float32)
                m += tl.load(table.lo + two_at + d, mask=d < D, other=0.0).to(tl.float32)
                dot_two += x * m
                squares += x * x
            s_one = tl.load(table.h_shifted + first) - tl.sum(dot_one, axis=0)
            s_two = tl.load(table.h_shifted + again) - tl.sum(dot_two, axis=0)
            fine = tl.where(index == first, s_one, tl.where(index == again, s_two, fine))
            square = tl.sum(squares, axis=0)
            left = tl.where(left > other, left, none)
            first = tl.min(left, axis=0)
        b = tl.sqrt(square) * (1.01 + D * 1.2e-7) + 1e-18
        error = b * slope + floor + D * 2.2204461e-16 * (b + length) * (b + length)
        # Scores near the end of fp32 exclude nothing: they are below 1e6 times their error.
        error = tl.where(error < 1e31, error, float("inf"))
        index = tl.where(fine > tl.min(fine, axis=0) + 2.02 * error, none, index)

        best = tl.full([], float("inf"), tl.float64)
        winner = tl.min(index, axis=0)
        first = winner
        if tl.min(tl.where(index > first, index, none), axis=0) == none:
            first = none  # decided
        while first < none:
            mu_ptr = centers_ptr + first.to(tl.int64) * D
            distances = tl.zeros([BLOCK_D], tl.float64)
            for start in range(0, D, BLOCK_D):
                d = start + tl.arange(0, BLOCK_D)
                x = tl.load(x_ptr + d, mask=d < D, other=0.0).to(tl.float32).to(tl.float64)
                difference = x - tl.load(mu_ptr + d, mask=d < D, other=0.0).to(tl.float64)
                distances += difference * difference
            distance = tl.sum(distances, axis=0)
            if distance < best:
                best = distance
                winner = first
            first = tl.min(tl.where(index > first, index, none), axis=0)
        tl.store(out_ptr + row, winner.to(tl.int64))
        entry += tl.num_programs(0)


@launch.kernel
def center_scan_kernel(
    z_ptr,  # [N, D] rows
    centers_ptr,  # [C, D] fp32 or fp64
    usable_ptr,  # [C] uint8
    lists: tl.tuple,  # Lists: the rows to do are ``every`` (LISTED); else whatever
    out_ptr,  # [N] int64 out
    N,
    C,
    D,
    stride_zn,
    LISTED: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Distances in float64 to every center: rows that nothing else decides, and small problems."""
    D = D // VEC * VEC
    row_stride = (stride_zn // VEC * VEC).to(tl.int64)
    count = tl.load(lists.counts + 2) if LISTED else N
    entry = tl.program_id(0)
    while entry < count:
        row = tl.load(lists.every + entry).to(tl.int64) if LISTED else entry.to(tl.int64)
        x_ptr = z_ptr + row * row_stride
        bad = tl.zeros([BLOCK_D], tl.int32)
        for start in range(0, D, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            x = tl.load(x_ptr + d, mask=d < D, other=0.0).to(tl.float32)
            bad |= (x - x != 0.0).to(tl.int32)
        best = tl.full([], float("inf"), tl.float64)
        winner = -1
        if tl.max(bad, axis=0) == 0:
            for first in range(0, C, BLOCK_C):
                c = first + tl.arange(0, BLOCK_C)
                mu_ptr = centers_ptr + tl.cast(first, tl.int64) * D
                usable = tl.load(usable_ptr + c, mask=c < C, other=0) != 0
                total = tl.zeros([BLOCK_C, BLOCK_D], tl.float64)
                for start in range(0, D, BLOCK_D):
                    d = start + tl.arange(0, BLOCK_D)
                    x = tl.load(x_ptr + d, mask=d < D, other=0.0)
                    mu = tl.load(
                        mu_ptr + (c - first)[:, None] * D + d[None, :],
                        mask=usable[:, None] & (d < D)[None, :],
                        other=0.0,
                    )
                    difference = x.to(tl.float32).to(tl.float64)[None, :] - mu.to(tl.float64)
                    total += tl.where((d < D)[None, :], difference * difference, 0.0)
                distance = tl.where(usable, tl.sum(total, axis=1), float("inf"))
                nearest = tl.min(distance, axis=0)
                tied = usable & (distance == nearest)
                place = tl.min(tl.where(tied, c, 2147483647), axis=0)
                if place < 2147483647 and (nearest < best or winner < 0):
                    best = nearest
                    winner = place
        tl.store(out_ptr + row, winner.to(tl.int64))
        entry += tl.num_programs(0)
