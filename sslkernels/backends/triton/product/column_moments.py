r"""Column means, variances and the invariance sum of both views in one read, and centered copies.

Rows are cut into ``splits`` parts; within a part a program keeps, per column, s = sum(z - c) and
q = sum((z - c)^2) in fp32 with c the mean of its first rows, so that a common offset costs no
digits. Then mean = c + s/n and M2 = q - s^2/n in float64, and parts merge by Chan's formula in a
fixed order, also in float64:

    mean = mean_a + (mean_b - mean_a) n_b / n,   M2 = M2_a + M2_b + (mean_b - mean_a)^2 n_a n_b / n

No atomics: the same input gives the same bits.

The invariance sum and the variance and covariance sums that need only columns leave as one triple
per block of columns (:func:`store_column_sums`), which ``vicreg.terms_kernel`` adds up.

Where one program sees all rows, it writes the centered copies that products read (``operands.py``)
in the same launch, from rows that the first sweep left in the L2 cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch
from sslkernels.backends.triton.product import tiles
from sslkernels.backends.triton.product.operands import PAD, center_block


@triton.jit
def first_mean(z_ptrs, mask, count):
    z = tl.load(z_ptrs, mask=mask, other=0.0).to(tl.float32)
    return tl.sum(z, axis=0) / count


@triton.jit
def finish_sums(s, q, shift, n):
    """fp32 sums of a tile's columns -> float64 mean and M2 of its n rows."""
    s = tl.sum(s, axis=0).to(tl.float64)
    q = tl.sum(q, axis=0).to(tl.float64)
    m2 = q - s * s / n
    return shift.to(tl.float64) + s / n, tl.where(m2 < 0.0, 0.0, m2)  # keeps a NaN


@triton.jit
def problem_and_block(D, BLOCK_D: tl.constexpr):
    """(problem, block of its columns, number of problems) of a program. Problems share the grid's
    first axis with the blocks: it is the only one without a limit of 65,535."""
    blocks = tl.cdiv(D, BLOCK_D)
    pid = tl.program_id(0)
    return (pid // blocks).to(tl.int64), pid % blocks, (tl.num_programs(0) // blocks).to(tl.int64)


@triton.jit
def store_column_sums(sums_ptr, hinge, squares, invariance):
    """[3, P * blocks]: this program's sums over its columns."""
    count = tl.num_programs(0)
    at = tl.program_id(0)
    tl.store(sums_ptr + at, tl.sum(hinge))
    tl.store(sums_ptr + count + at, tl.sum(squares))
    tl.store(sums_ptr + 2 * count + at, tl.sum(invariance))


@triton.jit
def finish_view(mean_ptr, var_ptr, at, mean, m2, mask, N, gamma, eps):
    """Stores one view's means and variances; returns its hinges and squared variances."""
    var = m2 / (N - 1)
    tl.store(mean_ptr + at, mean, mask=mask)
    tl.store(var_ptr + at, var, mask=mask)
    hinge = gamma - tl.sqrt(var + eps)
    hinge = tl.where(hinge < 0.0, 0.0, hinge)  # keeps a NaN
    return tl.where(mask, hinge, 0.0), tl.where(mask, var * var, 0.0)


@launch.kernel
def column_moments_kernel(
    x_ptr,  # [P, N, D]
    y_ptr,  # [P, N, D], or x again if VIEWS is 1
    mean_ptr,  # float64 [VIEWS, P, D], or [splits, VIEWS, P, D] unless SINGLE
    var_ptr,  # float64, like mean: variances, or M2 of the split unless SINGLE
    invariance_ptr,  # float64 [splits, P, D], unless SINGLE
    sums_ptr,  # float64 [3, P * blocks], if SINGLE
    out_ptr,  # centered copies, if CENTER
    N,
    D,
    rows_per_split,
    stride_xp,
    stride_xn,
    stride_yp,
    stride_yn,
    stride_out,
    stride_outq,
    plane_stride,
    gamma,
    eps,
    VIEWS: tl.constexpr,
    SINGLE: tl.constexpr,
    CENTER: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    ROUNDING: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
    CENTER_N: tl.constexpr,
    PAD: tl.constexpr,
):
    D = D // VEC * VEC
    stride_xn = stride_xn // VEC * VEC
    stride_yn = stride_yn // VEC * VEC
    split = tl.program_id(1)
    p, column_block, P = problem_and_block(D, BLOCK_D)
    x_ptr += p * (stride_xp // VEC * VEC)
    y_ptr += p * (stride_yp // VEC * VEC)
    cols = column_block * BLOCK_D + tl.arange(0, BLOCK_D)
    mask_d = cols < D
    # 64-bit arithmetic for a tile's first row, 32-bit within.
    r = tl.arange(0, BLOCK_N)
    x_at = r[:, None] * stride_xn + cols[None, :]
    y_at = r[:, None] * stride_yn + cols[None, :]
    first = split.to(tl.int64) * rows_per_split
    last = tl.minimum(first + rows_per_split, N)
    n = (last - first).to(tl.float64)

    mask = (r < last - first)[:, None] & mask_d[None, :]
    count = tl.minimum(last - first, BLOCK_N).to(tl.float32)
    x_shift = first_mean(x_ptr + first * stride_xn + x_at, mask, count)
    x_sum = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    x_square = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    if VIEWS == 2:
        y_shift = first_mean(y_ptr + first * stride_yn + y_at, mask, count)
        y_sum = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        y_square = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        square = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for row in tl.range(first, last, BLOCK_N, num_stages=STAGES):
        mask = (r < last - row)[:, None] & mask_d[None, :]
        x = tl.load(x_ptr + row * stride_xn + x_at, mask=mask, other=0.0).to(tl.float32)
        centered = tl.where(mask, x - x_shift[None, :], 0.0)
        x_sum += centered
        x_square += centered * centered
        if VIEWS == 2:
            y = tl.load(y_ptr + row * stride_yn + y_at, mask=mask, other=0.0).to(tl.float32)
            centered = tl.where(mask, y - y_shift[None, :], 0.0)
            y_sum += centered
            y_square += centered * centered
            square += (x - y) * (x - y)

    x_mean, x_m2 = finish_sums(x_sum, x_square, x_shift, n)
    x_column = (split.to(tl.int64) * VIEWS * P + p) * D + cols
    y_column = x_column + P * D
    invariance = tl.zeros((BLOCK_D,), tl.float64)
    if VIEWS == 2:
        y_mean, y_m2 = finish_sums(y_sum, y_square, y_shift, n)
        invariance = tl.sum(square, axis=0).to(tl.float64)

    if SINGLE:
        hinge, squares = finish_view(
            mean_ptr, var_ptr, x_column, x_mean, x_m2, mask_d, N, gamma, eps
        )
        if VIEWS == 2:
            more = finish_view(mean_ptr, var_ptr, y_column, y_mean, y_m2, mask_d, N, gamma, eps)
            hinge += more[0]
            squares += more[1]
        store_column_sums(sums_ptr, hinge, squares, invariance)
    else:
        tl.store(mean_ptr + x_column, x_mean, mask=mask_d)
        tl.store(var_ptr + x_column, x_m2, mask=mask_d)
        if VIEWS == 2:
            tl.store(mean_ptr + y_column, y_mean, mask=mask_d)
            tl.store(var_ptr + y_column, y_m2, mask=mask_d)
        at = (split.to(tl.int64) * P + p) * D + cols
        tl.store(invariance_ptr + at, invariance, mask=mask_d)

    if CENTER:
        stride_out = stride_out // PAD * PAD
        plane_stride = plane_stride // PAD * PAD
        out_ptr += p * (stride_outq // PAD * PAD)
        hi = x_mean.to(tl.float32)
        lo = (x_mean - hi).to(tl.float32)
        if VIEWS == 2:
            y_out = out_ptr + P * (stride_outq // PAD * PAD)
            y_hi = y_mean.to(tl.float32)
            y_lo = (y_mean - y_hi).to(tl.float32)
        # Past the last row, for the padding of a transposed copy.
        for top in range(0, N, CENTER_N):
            block = top + tl.arange(0, CENTER_N)
            center_block(
                *(x_ptr, stride_xn, hi, lo, out_ptr, stride_out, plane_stride),
                *(block, cols, N, D, TRANSPOSE, ROUNDING),
            )
            if VIEWS == 2:
                center_block(
                    *(y_ptr, stride_yn, y_hi, y_lo, y_out, stride_out, plane_stride),
                    *(block, cols, N, D, TRANSPOSE, ROUNDING),
                )


@launch.kernel
def merge_moments_kernel(
    part_mean_ptr,  # float64 [splits, VIEWS, P, D]
    part_m2_ptr,
    part_invariance_ptr,  # float64 [splits, P, D]
    mean_ptr,  # float64 [VIEWS, P, D]
    var_ptr,
    sums_ptr,  # float64 [3, P * blocks]
    N,
    D,
    rows_per_split,
    splits,
    gamma,
    eps,
    VIEWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The second stage where rows were split: Chan's merge, split by split."""
    p, column_block, P = problem_and_block(D, BLOCK_D)
    cols = column_block * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = cols < D
    plane = P * D
    at = p * D + cols
    hinge = tl.zeros((BLOCK_D,), tl.float64)
    squares = tl.zeros((BLOCK_D,), tl.float64)
    for view in tl.static_range(VIEWS):
        mean = tl.zeros((BLOCK_D,), tl.float64)
        m2 = tl.zeros((BLOCK_D,), tl.float64)
        for s in range(splits):
            before = (s * rows_per_split).to(tl.float64)
            more = (tl.minimum(N, (s + 1) * rows_per_split) - s * rows_per_split).to(tl.float64)
            part = (s * VIEWS + view) * plane + at
            delta = tl.load(part_mean_ptr + part, mask=mask, other=0.0) - mean
            share = more / (before + more)
            mean += delta * share
            m2 += tl.load(part_m2_ptr + part, mask=mask, other=0.0) + delta * delta * before * share
        more_hinge, more_squares = finish_view(
            mean_ptr, var_ptr, view * plane + at, mean, m2, mask, N, gamma, eps
        )
        hinge += more_hinge
        squares += more_squares
    invariance = tl.zeros((BLOCK_D,), tl.float64)
    for s in range(splits):
        invariance += tl.load(part_invariance_ptr + s * plane + at, mask=mask, other=0.0)
    store_column_sums(sums_ptr, hinge, squares, invariance)


def row_splits(
    z: torch.Tensor, device: launch.Device, cuts: tiles.Cuts = tiles.CHOSEN
) -> tuple[int, int]:
    """(splits, rows in each) of z [P, N, D]; no split is empty."""
    p, n, d = z.shape
    tile = cuts.moments or tiles.moments(device)
    splits = cuts.row_splits or tiles.row_splits(p * triton.cdiv(d, tile.block_d), n, device)
    rows = triton.cdiv(n, splits)
    return triton.cdiv(n, rows), rows


def column_moments(
    x: torch.Tensor,  # [P, N, D] unit column stride
    y: torch.Tensor | None,
    gamma: float,
    eps: float,
    device: launch.Device,
    out: torch.Tensor | None = None,  # [planes, V * P, ...] centered copies to write in passing
    transpose: bool = False,
    rounding: str = "none",
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(mean, var, sums): float64 [V, P, D] twice, and float64 [3, n], whose row sums are the hinges
    max(0, gamma - sd), the squared variances (both over views, problems and columns) and (x - y)^2.

    One launch, or two where rows are split; ``out`` may be given only for one
    split and aligned views.
    """
    p, n, d = x.shape
    views = 1 if y is None else 2
    tile = cuts.moments or tiles.moments(device)
    splits, rows = row_splits(x, device, cuts)
    blocks = triton.cdiv(d, tile.block_d)
    sums = x.new_empty((3, p * blocks), dtype=torch.float64)
    mean = x.new_empty((views, p, d), dtype=torch.float64)
    var = torch.empty_like(mean)
    if splits == 1:
        part_mean, part_var, invariance = mean, var, sums
    else:
        parts = x.new_empty((2 * views + 1, splits, p, d), dtype=torch.float64)
        part_mean, part_var, invariance = parts[:views], parts[views:-1], parts[-1]
    other = x if y is None else y
    copy = x if out is None else out
    column_moments_kernel[(blocks * p, splits)](
        x,
        other,
        part_mean,
        part_var,
        invariance,
        sums,
        copy,
        n,
        d,
        rows,
        x.stride(0),
        x.stride(1),
        other.stride(0),
        other.stride(1),
        0 if out is None else out.stride(2),
        0 if out is None else out.stride(1),
        0 if out is None else out.stride(0),
        gamma,
        eps,
        VIEWS=views,
        SINGLE=splits == 1,
        CENTER=out is not None,
        TRANSPOSE=transpose and out is not None,
        ROUNDING=rounding if out is not None else "none",
        VEC=launch.vector_width(x, other),
        **tile.constexprs,
        STAGES=tile.num_stages,
        CENTER_N=cuts.center.block_n,
        PAD=PAD,
        num_warps=tile.num_warps,
    )
    if splits > 1:
        merge_moments_kernel[(blocks * p,)](
            part_mean,
            part_var,
            invariance,
            mean,
            var,
            sums,
            n,
            d,
            rows,
            splits,
            gamma,
            eps,
            VIEWS=views,
            BLOCK_D=tile.block_d,
            num_warps=2,
        )
    return mean, var, sums
