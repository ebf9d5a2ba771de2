r"""Column means, variances and the invariance sum of both views in one read, and centered copies.

Rows are cut into ``splits`` parts; within a part a program keeps, per column, s = sum(z - c) and
q = sum((z - c)^2) in fp32 with c the mean of its first rows, so that a common offset costs no
digits. Then mean = c + s/n and M2 = q - s^2/n in float64, and parts merge by Chan's formula in a
fixed order, also in float64:

    mean = mean_a + (mean_b - mean_a) n_b / n,   M2 = M2_a + M2_b + (mean_b - mean_a)^2 n_a n_b / n

No atomics: the same input gives the same bits.

The invariance sum and the variance and covariance sums that need only columns leave as one triple
per block of columns (:func:`store_column_sums`), which ``vicreg.terms_kernel`` adds up.

**Centered copies.** Products read a centered copy (why: ``gram.py``) in bf16 for bf16 input and in
fp32 for fp32 and fp16. It is written here, in the orientation whose rows run along the product's
contraction, and its rows are padded with zeros to a multiple of PAD, so that any N and D give
aligned 128-bit loads. Where one program sees all rows, it writes the copy in the same launch, from
rows that the first sweep left in the L2 cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton import launch, numerics, tiles

PAD = 16  # elements: a multiple of every 128-bit vector


@triton.jit
def store_operand(out_ptr, at, value, mask, plane_stride, ROUNDING: tl.constexpr):
    """Stores fp32 values as a product's operand; "split" writes hi and lo planes, hi + lo = value
    to 22 bits."""
    if ROUNDING == "none":
        tl.store(out_ptr + at, numerics.narrow(value, out_ptr.dtype.element_ty), mask=mask)
    else:
        hi = numerics.round_tf32(value)
        tl.store(out_ptr + at, hi, mask=mask)
        if ROUNDING == "split":
            tl.store(out_ptr + plane_stride + at, numerics.round_tf32(value - hi), mask=mask)


@triton.jit
def load_mean(mean_ptr, cols, mask):
    """A float64 mean as hi + lo in fp32: (z - hi) - lo keeps its digits under a common offset."""
    mean = tl.load(mean_ptr + cols, mask=mask, other=0.0)
    hi = mean.to(tl.float32)
    return hi, (mean - hi).to(tl.float32)


@triton.jit
def center_block(
    z_ptr,  # [N, D] one problem of one view, unit column stride
    stride_zn,
    hi,  # [BLOCK_D] column means
    lo,
    out_ptr,  # [N, D padded], or [D, N padded] if TRANSPOSE
    stride_out,
    plane_stride,
    rows,  # [BLOCK_N]
    cols,  # [BLOCK_D]
    N,
    D,
    TRANSPOSE: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    inside = (rows < N)[:, None] & (cols < D)[None, :]
    at = rows.to(tl.int64)[:, None] * stride_zn + cols[None, :]
    z = tl.load(z_ptr + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.where(inside, (z - hi[None, :]) - lo[None, :], 0.0)
    if TRANSPOSE:
        at = cols.to(tl.int64)[:, None] * stride_out + rows[None, :]
        mask = (cols < D)[:, None] & (rows < stride_out)[None, :]
        store_operand(out_ptr, at, value.T, mask, plane_stride, ROUNDING)
    else:
        at = rows.to(tl.int64)[:, None] * stride_out + cols[None, :]
        mask = (rows < N)[:, None] & (cols < stride_out)[None, :]
        store_operand(out_ptr, at, value, mask, plane_stride, ROUNDING)


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
def store_column_sums(sums_ptr, hinge, squares, invariance):
    """[3, P * blocks]: this program's sums over its columns."""
    count = tl.num_programs(0) * tl.num_programs(2)
    at = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
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


_STRIDES = ("stride_xp", "stride_xn", "stride_yp", "stride_yn")
_SIZES = ("N", "D", "rows_per_split", *_STRIDES, "stride_out", "stride_outq", "plane_stride")


@triton.jit(do_not_specialize=_SIZES)
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
    p = tl.program_id(2).to(tl.int64)
    x_ptr += p * (stride_xp // VEC * VEC)
    y_ptr += p * (stride_yp // VEC * VEC)
    cols = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
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
    x_column = (split.to(tl.int64) * VIEWS * tl.num_programs(2) + p) * D + cols
    y_column = x_column + tl.num_programs(2).to(tl.int64) * D
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
        at = (split.to(tl.int64) * tl.num_programs(2) + p) * D + cols
        tl.store(invariance_ptr + at, invariance, mask=mask_d)

    if CENTER:
        stride_out = stride_out // PAD * PAD
        plane_stride = plane_stride // PAD * PAD
        out_ptr += p * (stride_outq // PAD * PAD)
        hi = x_mean.to(tl.float32)
        lo = (x_mean - hi).to(tl.float32)
        if VIEWS == 2:
            y_out = out_ptr + tl.num_programs(2) * (stride_outq // PAD * PAD)
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


@triton.jit(do_not_specialize=["N", "D", "rows_per_split", "splits"])
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
    cols = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = cols < D
    plane = tl.num_programs(2).to(tl.int64) * D
    at = tl.program_id(2).to(tl.int64) * D + cols
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


_OPERAND_SIZES = (
    *("N", "D", "M", *_STRIDES, "first", "P", "row_blocks", "col_blocks", "centers"),
    *("stride_out", "stride_outq", "plane_stride", "stride_gram", "gram_plane_stride"),
)


@triton.jit(do_not_specialize=_OPERAND_SIZES)
def operands_kernel(
    x_ptr,  # [P, N, D]
    y_ptr,
    mean_ptr,  # float64 [views, P, D]
    gram_ptr,  # fp32 [views, P, M, M], read if GRAM
    out_ptr,  # [planes, problems, N, D padded], or [planes, problems, D, N padded] if TRANSPOSE
    gram_out_ptr,  # [planes, problems, M, M padded]
    N,
    D,
    M,
    stride_xp,
    stride_xn,
    stride_yp,
    stride_yn,
    first,  # problems are numbered view by view: view * P + p; the first one here
    P,
    row_blocks,
    col_blocks,
    centers,  # row_blocks * col_blocks: programs past it copy gram
    stride_out,
    stride_outq,
    plane_stride,
    stride_gram,  # M padded
    gram_plane_stride,
    GRAM: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    ROUNDING: tl.constexpr,
    VEC: tl.constexpr,
    VEC_GRAM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAD: tl.constexpr,
):
    """Operands of a product: centered copies, and the Gram matrices in the same type."""
    D = D // VEC * VEC
    stride_out = stride_out // PAD * PAD
    plane_stride = plane_stride // PAD * PAD
    slot = tl.program_id(1).to(tl.int64)
    problem = first + slot
    pid = tl.program_id(0)
    if pid < centers:
        rows = pid // col_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
        cols = pid % col_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
        hi, lo = load_mean(mean_ptr + problem * D, cols, cols < D)
        out = out_ptr + slot * (stride_outq // PAD * PAD)
        if problem < P:
            center_block(
                x_ptr + problem * (stride_xp // VEC * VEC),
                stride_xn // VEC * VEC,
                *(hi, lo, out, stride_out, plane_stride, rows, cols, N, D, TRANSPOSE, ROUNDING),
            )
        else:
            center_block(
                y_ptr + (problem - P) * (stride_yp // VEC * VEC),
                stride_yn // VEC * VEC,
                *(hi, lo, out, stride_out, plane_stride, rows, cols, N, D, TRANSPOSE, ROUNDING),
            )
    elif GRAM:
        stride_gram = stride_gram // PAD * PAD
        gram_plane_stride = gram_plane_stride // PAD * PAD
        M = M // VEC_GRAM * VEC_GRAM
        blocks = tl.cdiv(stride_gram, BLOCK_D)
        rows = (pid - centers) // blocks * BLOCK_N + tl.arange(0, BLOCK_N)
        cols = (pid - centers) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
        at = (problem * M + rows.to(tl.int64)[:, None]) * M + cols[None, :]
        inside = (rows < M)[:, None] & (cols < M)[None, :]
        value = tl.load(gram_ptr + at, mask=inside, other=0.0)
        at = (slot * M + rows.to(tl.int64)[:, None]) * stride_gram + cols[None, :]
        mask = (rows < M)[:, None] & (cols < stride_gram)[None, :]
        store_operand(gram_out_ptr, at, value, mask, gram_plane_stride, ROUNDING)


def padded(n: int) -> int:
    return triton.cdiv(n, PAD) * PAD


def row_splits(z: torch.Tensor, device: launch.Device) -> tuple[int, int]:
    """(splits, rows in each) of z [P, N, D]."""
    p, n, d = z.shape
    splits = tiles.row_splits(p * triton.cdiv(d, tiles.moments(device).block_d), n, device)
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(mean, var, sums): float64 [V, P, D] twice, and float64 [3, n], whose row sums are the hinges
    max(0, gamma - sd), the squared variances (both over views, problems and columns) and (x - y)^2.

    One launch, or two where rows are split; ``out`` may be given only for one split.
    """
    p, n, d = x.shape
    views = 1 if y is None else 2
    tile = tiles.moments(device)
    splits, rows = row_splits(x, device)
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
    column_moments_kernel[(blocks, splits, p)](
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
        TRANSPOSE=transpose,
        ROUNDING=rounding,
        VEC=launch.vector_width(x, other),
        BLOCK_N=tile.block_n,
        BLOCK_D=tile.block_d,
        STAGES=tile.num_stages,
        CENTER_N=tiles.CENTER.block_n,
        PAD=PAD,
        num_warps=tile.num_warps,
    )
    if splits > 1:
        merge_moments_kernel[(blocks, 1, p)](
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


def operands(
    x: torch.Tensor,  # [P, N, D] unit column stride
    y: torch.Tensor | None,
    mean: torch.Tensor,  # float64 [V, P, D]
    gram: torch.Tensor | None,  # fp32 [V, P, M, M]: also copied
    first: int,  # problems view * P + p from here
    out: torch.Tensor,  # [planes, problems, N, D padded] or, transposed, [.., D, N padded]
    gram_out: torch.Tensor | None,  # [planes, problems, M, M padded]
    transpose: bool,
    rounding: str,
) -> None:
    """Centered copies and Gram matrices as a product reads them. One launch."""
    p, n, d = x.shape
    tile = tiles.CENTER
    other = x if y is None else y
    row_blocks, col_blocks = triton.cdiv(n, tile.block_n), triton.cdiv(d, tile.block_d)
    programs = row_blocks * col_blocks
    m, stride_gram, gram_plane, vec_gram = 0, 0, 0, 1
    if gram is not None and gram_out is not None:
        m, stride_gram, gram_plane = gram.shape[-1], gram_out.stride(2), gram_out.stride(0)
        # Z^T Z has D columns like z; K has N, which must not decide what is compiled.
        vec_gram = launch.vector_width(gram) if m == d and not transpose else 1
        programs += triton.cdiv(m, tile.block_n) * triton.cdiv(stride_gram, tile.block_d)
    operands_kernel[(programs, out.shape[1])](
        x,
        other,
        mean,
        mean if gram is None else gram,
        out,
        out if gram_out is None else gram_out,
        n,
        d,
        m,
        x.stride(0),
        x.stride(1),
        other.stride(0),
        other.stride(1),
        first,
        p,
        row_blocks,
        col_blocks,
        row_blocks * col_blocks,
        out.stride(2),
        out.stride(1),
        out.stride(0),
        stride_gram,
        gram_plane,
        GRAM=gram is not None,
        TRANSPOSE=transpose,
        ROUNDING=rounding,
        VEC=launch.vector_width(x, other),
        VEC_GRAM=vec_gram,
        BLOCK_N=tile.block_n,
        BLOCK_D=tile.block_d,
        PAD=PAD,
        num_warps=tile.num_warps,
    )


def aot_cases(device: launch.Device) -> Iterator[launch.AotCase]:
    tile, center = tiles.moments(device), tiles.CENTER
    for dtype, name in launch.TRITON_TYPE.items():
        op_names = [op for op in tiles.operands(device) if tiles.serves(op, dtype)]
        pointers = {"x_ptr": f"*{name}", "y_ptr": f"*{name}", "mean_ptr": "*fp64"}
        for op in op_names:
            rounding = {"TRANSPOSE": False, "ROUNDING": op.rounding, "PAD": PAD}
            out = f"*{launch.TRITON_TYPE[op.dtype]}"
            for views, single, center_too, transpose in (
                (1, True, False, False),
                (1, False, False, False),
                (1, True, True, True),
                (2, True, False, False),
                (2, False, False, False),
                (2, True, True, False),
                (2, True, True, True),
            ):
                if not center_too and op is not op_names[0]:
                    continue
                label = f"{name} {views} view{'s' * (views - 1)}"
                label += "" if single else " split"
                label += f" centers {op}{' transposed' if transpose else ''}" if center_too else ""
                yield launch.AotCase(
                    column_moments_kernel,
                    label,
                    {
                        **pointers,
                        **dict.fromkeys(("var_ptr", "invariance_ptr", "sums_ptr"), "*fp64"),
                        "out_ptr": out if center_too else f"*{name}",
                        **dict.fromkeys(_SIZES, "i32"),
                        "gamma": "fp32",
                        "eps": "fp32",
                    },
                    {
                        **rounding,
                        "VIEWS": views,
                        "SINGLE": single,
                        "CENTER": center_too,
                        "TRANSPOSE": transpose,
                        "ROUNDING": op.rounding if center_too else "none",
                        "VEC": 16 // dtype.itemsize,
                        "BLOCK_N": tile.block_n,
                        "BLOCK_D": tile.block_d,
                        "STAGES": tile.num_stages,
                        "CENTER_N": center.block_n,
                    },
                    tile.num_warps,
                    3,
                    "streaming",
                )
            for gram in (False, True):
                for transpose in (False, True):
                    yield launch.AotCase(
                        operands_kernel,
                        f"{name} to {op}{' transposed' if transpose else ''}"
                        f"{' with gram' if gram else ''}",
                        {
                            **pointers,
                            "gram_ptr": "*fp32" if gram else "*fp64",
                            "out_ptr": out,
                            "gram_out_ptr": out,
                            **dict.fromkeys(_OPERAND_SIZES, "i32"),
                        },
                        {
                            **rounding,
                            "GRAM": gram,
                            "TRANSPOSE": transpose,
                            "VEC": 16 // dtype.itemsize,
                            "VEC_GRAM": 4 if gram and not transpose else 1,
                            "BLOCK_N": center.block_n,
                            "BLOCK_D": center.block_d,
                        },
                        center.num_warps,
                        3,
                        "streaming",
                    )
    for views in (1, 2):
        names = ("part_mean_ptr", "part_m2_ptr", "part_invariance_ptr", "mean_ptr", "var_ptr")
        yield launch.AotCase(
            merge_moments_kernel,
            f"{views} view{'s' * (views - 1)}",
            {
                **dict.fromkeys((*names, "sums_ptr"), "*fp64"),
                **dict.fromkeys(("N", "D", "rows_per_split", "splits"), "i32"),
                "gamma": "fp32",
                "eps": "fp32",
            },
            {"VIEWS": views, "BLOCK_D": tile.block_d},
            2,
            3,
            "other",
        )
