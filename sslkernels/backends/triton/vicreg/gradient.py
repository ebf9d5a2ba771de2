"""The gradient of VICReg: one product and a fused epilogue; mathematics in ``passes/vicreg.py``,
launches, memory and accuracy in ``vicreg.py``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import arithmetic, launch, numerics, tuning
from sslkernels.backends.triton.product import gram as symmetric
from sslkernels.backends.triton.product import operands, tiles
from sslkernels.backends.triton.vicreg.tiles import backward_tiles, problems_at_once
from sslkernels.numerics.views import result_dtype
from sslkernels.numerics.views import wide as takes_rows
from sslkernels.passes.vicreg import Part, VICRegSettings


@triton.jit
def finish_gradient(
    out,  # fp32 [BLOCK_N, BLOCK_D], the product's part of the gradient
    of_x,  # which view's
    x_ptr,  # the tile's corner
    y_ptr,
    mean_ptr,  # float64, the tile's first column
    var_ptr,
    grad_x_ptr,
    grad_y_ptr,
    stride_xn,
    stride_yn,
    stride_out,
    rows,  # that exist from the corner on
    columns,
    to_pull,
    to_spread,
    to_diagonal,
    gamma,
    eps,
    invariance,
    CENTERED: tl.constexpr,
):
    """Adds the variance, diagonal and invariance parts, and stores.

    Branches with a load or store for each view, since Triton's compiler for AMD fails on a choice
    between pointers.
    """
    r = tl.arange(0, out.shape[0])[:, None]
    c = tl.arange(0, out.shape[1])
    mask_d = c < columns
    mask = (r < rows) & mask_d[None, :]
    if of_x:
        z = tl.load(x_ptr + (r * stride_xn + c[None, :]), mask=mask, other=0.0)
    else:
        z = tl.load(y_ptr + (r * stride_yn + c[None, :]), mask=mask, other=0.0)
    z = z.to(tl.float32)
    if CENTERED:
        mean = tl.load(mean_ptr + c, mask=mask_d, other=0.0)
        var = tl.load(var_ptr + c, mask=mask_d, other=0.0)
        sd = tl.sqrt(var + eps)
        factor = tl.where(sd < gamma, to_spread / sd, 0.0) + var * to_diagonal
        hi = mean.to(tl.float32)
        lo = (mean - hi).to(tl.float32)
        out -= ((z - hi[None, :]) - lo[None, :]) * factor.to(tl.float32)[None, :]
    if invariance:
        if of_x:
            other = tl.load(y_ptr + (r * stride_yn + c[None, :]), mask=mask, other=0.0)
        else:
            other = tl.load(x_ptr + (r * stride_xn + c[None, :]), mask=mask, other=0.0)
        out += (z - other.to(tl.float32)) * to_pull
    out = numerics.narrow(out, grad_x_ptr.dtype.element_ty)
    at = r * stride_out + c[None, :]
    if of_x:
        tl.store(grad_x_ptr + at, out, mask=mask)
    else:
        tl.store(grad_y_ptr + at, out, mask=mask)


@launch.kernel
def vicreg_backward_kernel(
    grad_ptr,  # fp32 [4], of the terms
    x_ptr,  # [P, N, D]
    y_ptr,
    mean_ptr,  # float64 [V, P, D]
    var_ptr,
    a_ptr,  # [planes, problems, N, R]: K if wide, else centered Z
    b_ptr,  # [planes, problems, D, R]: centered Z^T if wide, else the off-diagonal of Z^T Z
    grad_x_ptr,  # [P, N, D]
    grad_y_ptr,
    N,
    D,
    R,  # padded contraction
    P,
    first,  # the first problem, view * P + p
    GROUP,
    invariance,
    stride_xp,
    stride_xn,
    stride_yp,
    stride_yn,
    stride_grad,
    stride_aq,
    stride_bq,
    stride_am,
    stride_bm,
    a_plane,
    b_plane,
    sim,
    std,
    cov,
    gamma,  # -1 without a variance term: no sd lies below it
    eps,
    of_invariance,  # 2 / (P N D)
    of_variance,  # 1 / (V P D (N - 1))
    of_product,  # 4 / (P D (N - 1)^2)
    of_diagonal,  # 4 / (P D (N - 1)) on the N x N side, else 0
    COVARIANCE: tl.constexpr,
    CENTERED: tl.constexpr,  # whether there is a covariance or a variance term
    SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    VEC: tl.constexpr,
    VEC_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """A tile of dL/dZ = a A B^T + b_j z_ij +- c (x - y): one product and its fused epilogue."""
    D = D // VEC * VEC
    R = R // VEC_R * VEC_R
    slot = tl.program_id(1).to(tl.int64)
    problem = first + slot
    # GROUP tile rows share the columns' operand in the L2 cache.
    pid = tl.program_id(0)
    row_tiles = tl.cdiv(N, BLOCK_N)
    col_tiles = tl.cdiv(D, BLOCK_D)
    top = pid // (GROUP * col_tiles) * GROUP
    height = tl.minimum(row_tiles - top, GROUP)
    within = pid % (GROUP * col_tiles)
    top = (top + within % height).to(tl.int64) * BLOCK_N
    left = within // height * BLOCK_D

    if COVARIANCE:
        stride_am = stride_am // VEC_R * VEC_R
        stride_bm = stride_bm // VEC_R * VEC_R
        acc = symmetric.accumulate(
            a_ptr + slot * (stride_aq // VEC_R * VEC_R) + top * stride_am,
            b_ptr + slot * (stride_bq // VEC_R * VEC_R) + left.to(tl.int64) * stride_bm,
            N - top,
            D - left,
            stride_am,
            stride_bm,
            a_plane // VEC_R * VEC_R,
            b_plane // VEC_R * VEC_R,
            R,
            0,
            SEGMENTS * tl.cdiv(R, BLOCK_R),
            SEGMENTS,
            PRECISION,
            BLOCK_N,
            BLOCK_D,
            BLOCK_R,
        )
    else:
        acc = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)

    p = problem % P
    stride_xn = stride_xn // VEC * VEC
    stride_yn = stride_yn // VEC * VEC
    # 64-bit arithmetic for the tile's corner, 32-bit within: half the address registers.
    x_ptr += p * (stride_xp // VEC * VEC) + top * stride_xn + left
    y_ptr += p * (stride_yp // VEC * VEC) + top * stride_yn + left
    grad_x_ptr += (p * N + top) * D + left
    grad_y_ptr += (p * N + top) * D + left
    mean_ptr += problem * D + left
    var_ptr += problem * D + left

    of_loss = tl.load(grad_ptr)
    to_pull = (of_loss * sim + tl.load(grad_ptr + stride_grad)) * of_invariance
    to_spread = (of_loss * std + tl.load(grad_ptr + 2 * stride_grad)) * of_variance
    of_cov = of_loss * cov + tl.load(grad_ptr + 3 * stride_grad)
    to_diagonal = of_cov * of_diagonal
    acc *= of_cov * of_product
    if COVARIANCE:
        # By halves: the whole tile, z and the other view do not fit the registers together.
        HALF: tl.constexpr = BLOCK_D // 2
        halves = tl.split(tl.permute(tl.reshape(acc, (BLOCK_N, 2, HALF)), (0, 2, 1)))
        for half in tl.static_range(2):
            finish_gradient(
                *(halves[half], problem < P, x_ptr + half * HALF, y_ptr + half * HALF),
                *(mean_ptr + half * HALF, var_ptr + half * HALF),
                *(grad_x_ptr + half * HALF, grad_y_ptr + half * HALF),
                *(stride_xn, stride_yn, D, N - top, D - left - half * HALF),
                *(to_pull, to_spread, to_diagonal, gamma, eps, invariance, CENTERED),
            )
    else:
        finish_gradient(
            *(acc, problem < P, x_ptr, y_ptr, mean_ptr, var_ptr, grad_x_ptr, grad_y_ptr),
            *(stride_xn, stride_yn, D, N - top, D - left),
            *(to_pull, to_spread, to_diagonal, gamma, eps, invariance, CENTERED),
        )


def vicreg_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    gram: torch.Tensor,
    settings: VICRegSettings,
    need_x: bool,
    need_y: bool,
    cuts: tiles.Cuts = tiles.CHOSEN,
    *,
    part: Part | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    need_y = need_y and y is not None
    sim, std, cov, gamma, eps, invariance, variance, covariance = settings
    with launch.on_device(x):
        device = launch.device_of(x)
        p, n, d = x.shape
        rows, columns = part or (n, d)
        dtype = result_dtype(x.dtype) if part else x.dtype
        grad_x = x.new_empty((p, n, d), dtype=dtype) if need_x else None
        grad_y = x.new_empty((p, n, d), dtype=dtype) if need_y else None
        if not (need_x or need_y):
            return None, None
        x = launch.unit_columns(x)
        y = None if y is None else launch.unit_columns(y)
        views = 1 if y is None else 2
        begin, end = (0 if need_x else p), (2 * p if need_y else p)
        wide = takes_rows(rows, columns)
        op = arithmetic.operand(x.dtype, device)
        stride = operands.padded(n if wide else d)
        at_once = min(end - begin, launch.GRID)
        a = b = x
        if covariance:
            size = op.planes * (n + d) * stride * op.dtype.itemsize
            at_once = min(end - begin, cuts.at_once or problems_at_once(end - begin, size))
            a = operands.workspace(x, op.planes, at_once, n, stride, op.dtype)
            b = operands.workspace(x, op.planes, at_once, d, stride, op.dtype)
        other = x if y is None else y
        vec = launch.vector_width(x, other)

        def launch_all(tile: tiles.Backward) -> None:
            programs = triton.cdiv(n, tile.block_n) * triton.cdiv(d, tile.block_d)
            for first in range(begin, end, at_once):
                problems = min(at_once, end - first)
                if covariance:
                    copy, matrix = (b, a) if wide else (a, b)
                    operands.operands(
                        *(x, y, mean, gram, first, copy[:, :problems], matrix[:, :problems]),
                        *(wide, op.rounding, cuts.center),
                    )
                vicreg_backward_kernel[(programs, problems)](
                    grad,
                    x,
                    other,
                    mean,
                    var,
                    a,
                    b,
                    grad_y if grad_x is None else grad_x,
                    grad_x if grad_y is None else grad_y,
                    n,
                    d,
                    stride,
                    p,
                    first,
                    cuts.group,
                    int(invariance),
                    x.stride(0),
                    x.stride(1),
                    other.stride(0),
                    other.stride(1),
                    grad.stride(0),
                    a.stride(1),
                    b.stride(1),
                    a.stride(2),
                    b.stride(2),
                    a.stride(0),
                    b.stride(0),
                    sim,
                    std,
                    cov,
                    gamma if variance else -1.0,
                    eps,
                    2.0 / (p * rows * columns),
                    1.0 / (views * p * columns * (rows - 1)),
                    4.0 / (p * columns * (rows - 1) ** 2),
                    4.0 / (p * columns * (rows - 1)) if wide and covariance else 0.0,
                    COVARIANCE=covariance,
                    CENTERED=covariance or variance,
                    SEGMENTS=op.segments,
                    PRECISION=op.precision,
                    VEC=vec,
                    VEC_R=16 // op.dtype.itemsize,
                    **tile.constexprs,
                    num_warps=tile.num_warps,
                    num_stages=tile.num_stages,
                )

        key = ("backward", x.device, end - begin, tuning.bucket(n), d, op, covariance)
        choice = backward_tiles(n, d, op.dtype, device, covariance, vec > 1)
        if cuts.backward:
            choice = (cuts.backward,)
        launch_all(tuning.pick(choice, key, launch_all))
    return grad_x, grad_y
