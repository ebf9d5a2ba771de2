r"""Rows x centers in low precision: the few centers per row that can be the nearest, with proof.

argmin_c ||x - mu_c||^2 is argmin_c of ``s_c = ||m_c||^2 / 2 - x'.m_c`` with m_c = mu_c - g and
x' = x - g for any vector g (here the mean of the centers, rounded to fp32). Half-precision rows are
multiplied as they are, x' replaced by x and ||m_c||^2 / 2 by ``||m_c||^2 / 2 + g.m_c``; fp32 rows
pass through registers on their way to bf16 anyway and lose g there. s_c is computed as
``s~_c = h_c - x^.m^_c`` from rounded rows x^ and centers m^, on tensor cores.

**Bound.** With u = 2^-24, M, R, H the largest ||m_c||, ||m_c - m^_c||, |h_c| over the centers (in
float64, rounded up), B = ||x'|| and A = ||x' - x^|| + 2 u B (0 for half-precision rows)::

    |s~_c - s_c| <= A M + (B + A) R                rounded operands (Cauchy-Schwarz, twice)
                  + D 2^-22 (B + A) (M + R)        accumulation, see below
                  + 2^-18 (H + (B + A) (M + R))    fp32 h_c, one fp32 subtraction, index bits
                  + D 2^-52 (B + max ||mu_c||)^2   float64 distances are themselves rounded
                  + D 2^-120                       underflow
                  =: E

Accumulation: a tensor core adds b products to its fp32 accumulator after aligning all b + 1 terms
to the largest and truncating them there, then truncates the sum (Fasi, Higham, Mikaitis, Pranesh,
"Numerical behavior of NVIDIA tensor cores", 2021): at most (b + 1) 2^-23 times T = sum_j
|x^_j m^_j| per step of b columns, so D (1 + 1/b) 2^-23 T <= D 2^-22 T in all, for any b >= 1; and
T <= ||x^|| ||m^||. Norms are summed in fp32 and enlarged by 1% + D 2^-23, more than that loses.

If c* is the nearest center and b the one with the smallest s~, then s~_c* <= s_c* + E <= s_b + E
<= s~_b + 2 E. So the nearest center (and with it every exact tie) is a **candidate**: s~_c <= s~_b
+ 2 E. Where E is not finite (NaN, infinity, squares beyond fp32) nothing is claimed.

**Split.** Rows with too many candidates get a second, finer pass (SPLIT): x' and m each as a sum of
two bf16, hi hi + hi lo + lo hi, subtracted from s~ in fp32 after every BLOCK_K columns. With
A1 = ||x' - hi||, A2 = ||x' - hi - lo|| + 2 u B and R1, R2 likewise, the first two lines become
``A2 M + (B + A1) R2 + 1.02 A1 R1 + (3 BLOCK_K 2^-22 + (D / BLOCK_K + 2) u) (...)``: about 80 times
smaller at D = 2048.

**Candidates without an N x C matrix.** Columns of a tile are dealt to GROUPS = 16 groups (column
modulo 16, so that a group's columns lie in one thread's registers). Every group keeps its best
score, the tile that it came from and its second-best score; the place within the tile is written
over the score's lowest 4 bits. At the end a row's KEEP best groups are its candidates, and ``rest``
is the best score not among them: one comparison tells whether the list is complete.

**Order.** A row tile's centers are cut into spans, one program each, next to each other in launch
order: they read the same rows at the same time, through L2, and stream disjoint centers. Centers
may thus exceed L2 by any factor.
"""

from __future__ import annotations

import triton.language as tl

from sslkernels.backends.triton.core import launch, numerics

GROUPS = 16
KEEP = 4
BOUNDS = 8  # columns of a table's bounds


@launch.kernel
def center_kernel(
    centers_ptr,  # [C, D] fp32 or fp64, contiguous
    usable_ptr,  # [C] uint8: every coordinate is finite
    table: tl.tuple,  # Table out, but for g; bounds of every row
    C,
    D,
    pitch,
    SHIFTED: tl.constexpr,  # the first pass subtracts g from the rows
    BLOCK_D: tl.constexpr,
):
    c = tl.program_id(0)
    inside = c < C
    usable = tl.load(usable_ptr + c, mask=inside, other=0) != 0
    out = c.to(tl.int64) * pitch
    m_sq = tl.zeros([BLOCK_D], tl.float64)
    g_m = tl.zeros([BLOCK_D], tl.float64)
    mu_sq = tl.zeros([BLOCK_D], tl.float64)
    r_first = tl.zeros([BLOCK_D], tl.float64)
    r_hi = tl.zeros([BLOCK_D], tl.float64)
    r_split = tl.zeros([BLOCK_D], tl.float64)
    for start in range(0, pitch, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        live = (d < D) & usable
        mu = tl.load(centers_ptr + c.to(tl.int64) * D + d, mask=live, other=0.0).to(tl.float64)
        g = tl.load(table.g + d, mask=live, other=0.0).to(tl.float64)
        m = mu - g
        first = numerics.narrow(m.to(tl.float32), table.first.dtype.element_ty)
        hi = numerics.narrow(m.to(tl.float32), tl.bfloat16)
        left = m - hi.to(tl.float32).to(tl.float64)
        lo = numerics.narrow(left.to(tl.float32), tl.bfloat16)
        last = left - lo.to(tl.float32).to(tl.float64)
        off = m - first.to(tl.float32).to(tl.float64)
        m_sq += m * m
        g_m += g * m
        mu_sq += mu * mu
        r_first += off * off
        r_hi += left * left
        r_split += last * last
        tl.store(table.first + out + d, first, mask=d < pitch)
        tl.store(table.hi + out + d, hi, mask=d < pitch)
        tl.store(table.lo + out + d, lo, mask=d < pitch)
    m_norm = tl.sum(m_sq, axis=0)
    # An unusable center scores 3e38: finite, since bits are written into it.
    h_shifted = m_norm * 0.5
    h_first = h_shifted
    if not SHIFTED:
        h_first += tl.sum(g_m, axis=0)
    tl.store(table.h_shifted + c, tl.where(usable, h_shifted, 3e38).to(tl.float32))
    tl.store(table.h_first + c, tl.where(usable, h_first, 3e38).to(tl.float32))
    up = 1.0 + 1.0 / 1048576  # over the rounding to fp32
    bounds_ptr = table.bounds + c * 8
    tl.store(bounds_ptr + 0, (tl.sqrt(m_norm) * up).to(tl.float32))
    tl.store(bounds_ptr + 1, (tl.sqrt(tl.sum(r_first, axis=0)) * up).to(tl.float32))
    tl.store(bounds_ptr + 2, (tl.sqrt(tl.sum(r_hi, axis=0)) * up).to(tl.float32))
    tl.store(bounds_ptr + 3, (tl.sqrt(tl.sum(r_split, axis=0)) * up).to(tl.float32))
    tl.store(bounds_ptr + 4, (tl.abs(h_first) * up).to(tl.float32))
    tl.store(bounds_ptr + 5, (h_shifted * up).to(tl.float32))
    tl.store(bounds_ptr + 6, (tl.sqrt(tl.sum(mu_sq, axis=0)) * up).to(tl.float32))


@launch.kernel
def center_filter_kernel(
    z_ptr,  # [N, D] rows
    table: tl.tuple,  # Table
    lists: tl.tuple,  # Lists: the rows to do are ``many`` (LISTED)
    found: tl.tuple,  # Found out, but for limit
    N,
    D,
    stride_zn,
    pitch,
    table_rows,
    span_rows,
    spans,
    LISTED: tl.constexpr,
    SHIFTED: tl.constexpr,
    SPLIT: tl.constexpr,
    EVEN_K: tl.constexpr,
    VEC: tl.constexpr,
    GROUPS: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    D = D // VEC * VEC
    row_stride = (stride_zn // VEC * VEC).to(tl.int64)
    pitch = pitch // BLOCK_K * BLOCK_K
    PLACES: tl.constexpr = BLOCK_C // GROUPS
    PART: tl.constexpr = BLOCK_K // 8
    total = tl.load(lists.counts + 1) if LISTED else N
    first_ptr = table.hi if SPLIT else table.first
    jobs = tl.cdiv(total, BLOCK_N) * spans
    job = tl.program_id(0)
    while job < jobs:
        span = job % spans
        entry = job // spans * BLOCK_N + tl.arange(0, BLOCK_N)
        live = entry < total
        if LISTED:
            row = tl.load(lists.many + entry, mask=live, other=0).to(tl.int64)
        else:
            row = tl.minimum(entry, total - 1).to(tl.int64)
        first_class = span * span_rows
        tiles = tl.minimum(span_rows, table_rows - first_class) // BLOCK_C

        k_lane = tl.arange(0, BLOCK_K)
        x_ptrs = z_ptr + row[:, None] * row_stride + k_lane[None, :]
        best = tl.full([BLOCK_N, GROUPS], float("inf"), tl.float32)
        second = tl.full([BLOCK_N, GROUPS], float("inf"), tl.float32)
        origin = tl.zeros([BLOCK_N, GROUPS], tl.int32)
        # Squares of x', of x' - hi and (SPLIT) of x' - hi - lo, summed by eights of columns.
        sq = tl.zeros([BLOCK_N, PART], tl.float32)
        sq_hi = tl.zeros([BLOCK_N, PART], tl.float32)
        sq_lo = tl.zeros([BLOCK_N, PART], tl.float32)
        for t in range(tiles):
            c = first_class.to(tl.int64) + t * BLOCK_C + tl.arange(0, BLOCK_C)
            hi_ptrs = first_ptr + c[None, :] * pitch + k_lane[:, None]
            lo_ptrs = table.lo + c[None, :] * pitch + k_lane[:, None]
            h = tl.load((table.h_shifted if SPLIT else table.h_first) + c)
            acc = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
            if SPLIT:
                acc += h[None, :]
            # Every tile sums the squares again: cheaper than a second copy of the loop.
            sq = tl.zeros([BLOCK_N, PART], tl.float32)
            sq_hi = tl.zeros([BLOCK_N, PART], tl.float32)
            sq_lo = tl.zeros([BLOCK_N, PART], tl.float32)
            for k in range(0, D, BLOCK_K):
                if EVEN_K:
                    x = tl.load(x_ptrs + k)
                else:
                    x = tl.load(x_ptrs + k, mask=(k + k_lane < D)[None, :], other=0.0)
                hi = tl.load(hi_ptrs + k)
                if SHIFTED:
                    g = tl.load(table.g + k + k_lane, mask=k + k_lane < D, other=0.0)
                    xf = x.to(tl.float32) - g[None, :]
                    x_hi = numerics.narrow(xf, tl.bfloat16)
                    left = xf - x_hi.to(tl.float32)
                    sq_hi += tl.sum(tl.reshape(left * left, [BLOCK_N, PART, 8]), axis=2)
                else:
                    xf = x.to(tl.float32)
                    x_hi = x
                sq += tl.sum(tl.reshape(xf * xf, [BLOCK_N, PART, 8]), axis=2)
                if SPLIT:
                    x_lo = numerics.narrow(left, tl.bfloat16)
                    last = left - x_lo.to(tl.float32)
                    sq_lo += tl.sum(tl.reshape(last * last, [BLOCK_N, PART, 8]), axis=2)
                    part = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
                    part = numerics.dot(x_lo, hi, part, "ieee")
                    part = numerics.dot(x_hi, tl.load(lo_ptrs + k), part, "ieee")
                    # A subtraction: the compiler would turn a sum into one long accumulation.
                    acc = acc - numerics.dot(x_hi, hi, part, "ieee")
                else:
                    acc = numerics.dot(x_hi, hi, acc, "ieee")
            score = acc if SPLIT else h[None, :] - acc
            place = (tl.arange(0, BLOCK_C) // GROUPS)[None, :]
            bits = (score.to(tl.int32, bitcast=True) & -16) | place
            score = tl.reshape(bits.to(tl.float32, bitcast=True), [BLOCK_N, PLACES, GROUPS])
            top = tl.min(score, axis=1)
            # Places differ within a group, so no two scores do not.
            next_top = tl.min(tl.where(score > top[:, None, :], score, float("inf")), axis=1)
            second = tl.minimum(tl.minimum(second, next_top), tl.maximum(best, top))
            origin = tl.where(top < best, first_class + t * BLOCK_C, origin)
            best = tl.minimum(best, top)

        group = tl.arange(0, GROUPS)[None, :]
        out = row * spans + span
        for i in tl.static_range(KEEP):
            top = tl.min(best, axis=1)
            winner = tl.min(tl.where(best == top[:, None], group, GROUPS - 1), axis=1)
            won = group == winner[:, None]
            base = tl.max(tl.where(won, origin, 0), axis=1)
            place = top.to(tl.int32, bitcast=True) & 15
            tl.store(found.score + out * KEEP + i, top, mask=live)
            tl.store(found.index + out * KEEP + i, base + place * GROUPS + winner, mask=live)
            best = tl.where(won, float("inf"), best)
        rest = tl.minimum(tl.min(best, axis=1), tl.min(second, axis=1))
        tl.store(found.rest + out, rest, mask=live)

        if first_class == 0:
            m = tl.load(table.bounds)
            length = tl.load(table.bounds + 6)
            up = 1.01 + D * 1.2e-7
            b = tl.sqrt(tl.sum(sq, axis=1)) * up + 1e-18
            a1 = tl.sqrt(tl.sum(sq_hi, axis=1)) * up
            if SHIFTED:
                a1 += b * 1.2e-7
            if SPLIT:
                r1 = tl.load(table.bounds + 2)
                r2 = tl.load(table.bounds + 3)
                h_max = tl.load(table.bounds + 5)
                a2 = tl.sqrt(tl.sum(sq_lo, axis=1)) * up + b * 1.2e-7
                size = 1.1 * (b + a1) * (m + r1)
                steps = D // BLOCK_K + 3
                error = a2 * m + (b + a1) * r2 + 1.02 * a1 * r1
                error += 3 * BLOCK_K * 2.384186e-7 * size + steps * 6e-8 * (size + h_max)
            else:
                r1 = tl.load(table.bounds + 1)
                h_max = tl.load(table.bounds + 4)
                size = (b + a1) * (m + r1)
                error = a1 * m + (b + a1) * r1 + D * 2.384186e-7 * size
            error += 3.8147e-6 * (size + h_max)
            error += D * 2.2204461e-16 * (b + length) * (b + length) + D * 7.53e-37
            # Scores must stay clear of that of an unusable center.
            error = tl.where(size + h_max < 1e37, error * 1.0001, float("inf"))
            tl.store(found.error + row, error, mask=live)
        job += tl.num_programs(0)
