"""The gradient of Barlow Twins; mathematics in ``passes/barlow_twins.py``, launches, memory and
accuracy in ``barlow_twins.py``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.barlow_twins.operands import matrices, standardized
from sslkernels.backends.triton.core import arithmetic, launch, numerics
from sslkernels.backends.triton.product import operands, tiles
from sslkernels.backends.triton.product import plain as products
from sslkernels.backends.triton.product.operands import load_centered, load_mean
from sslkernels.numerics.views import result_dtype
from sslkernels.numerics.views import wide as takes_rows
from sslkernels.passes.vicreg import Part


@launch.kernel
def barlow_twins_rows_kernel(
    grad_ptr,  # fp32 [3], of the terms
    x_ptr,  # [N, D]
    y_ptr,
    columns_ptr,  # float64 [5, D]: means, factors, c
    part_ptr,  # fp32 [splits, V, N, D]: products of Gram matrices and normalized columns
    drift_ptr,  # fp32 [V, row blocks, D] out, or float64 [V, D] if FINISH
    grad_x_ptr,  # [N, D] out, if FINISH
    grad_y_ptr,
    N,
    D,
    V,
    first,  # the first view to do
    splits,
    wide,
    stride_xn,
    stride_yn,
    stride_grad,
    lambda_,
    FINISH: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """dL/da = alpha (product) + b diag(beta): the sums over rows of a dL/da, or if FINISH,
    dL/dx = (dL/da - a diag(mean of a dL/da)) diag(factor)."""
    D = D // VEC * VEC
    stride_xn = stride_xn // VEC * VEC
    stride_yn = stride_yn // VEC * VEC
    # Rows and columns on one axis: the others end at 65,535 programs.
    slot = tl.program_id(1)
    col_blocks = tl.cdiv(D, BLOCK_D)
    row_block = tl.program_id(0) // col_blocks
    rows = row_block * BLOCK_N + tl.arange(0, BLOCK_N)
    cols = tl.program_id(0) % col_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    mask_d = cols < D
    mask = (rows < N)[:, None] & mask_d[None, :]

    on = (tl.load(grad_ptr) + tl.load(grad_ptr + stride_grad)).to(tl.float64)
    off = (tl.load(grad_ptr) * lambda_ + tl.load(grad_ptr + 2 * stride_grad)).to(tl.float64)
    c = tl.load(columns_ptr + 4 * D + cols, mask=mask_d, other=0.0)
    alpha = 2.0 * off / N
    beta = on * (c - 1.0)
    if wide == 1:
        alpha /= N
        beta -= off * c
    beta = (2.0 * beta / N).to(tl.float32)

    factor_x = tl.load(columns_ptr + 2 * D + cols, mask=mask_d, other=0.0).to(tl.float32)
    factor_y = tl.load(columns_ptr + 3 * D + cols, mask=mask_d, other=0.0).to(tl.float32)
    hi, lo = load_mean(columns_ptr, cols, mask_d)
    a = load_centered(x_ptr, stride_xn, hi, lo, rows, cols, N, D) * factor_x[None, :]
    hi, lo = load_mean(columns_ptr + D, cols, mask_d)
    b = load_centered(y_ptr, stride_yn, hi, lo, rows, cols, N, D) * factor_y[None, :]
    of_x = first + slot == 0
    own = tl.where(of_x, a, b)
    other = tl.where(of_x, b, a)

    at = rows.to(tl.int64)[:, None] * D + cols[None, :]
    size = N.to(tl.int64) * D
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for s in range(splits):
        total += tl.load(part_ptr + (s * V + slot) * size + at, mask=mask, other=0.0)
    on_unit = total * alpha.to(tl.float32) + other * beta[None, :]
    if FINISH:
        drift = tl.load(drift_ptr + slot * D + cols, mask=mask_d, other=0.0).to(tl.float32)
        factor = tl.where(of_x, factor_x, factor_y)
        out = (on_unit - own * drift[None, :]) * factor[None, :]
        out = numerics.narrow(out, grad_x_ptr.dtype.element_ty)
        if of_x:
            tl.store(grad_x_ptr + at, out, mask=mask)
        else:
            tl.store(grad_y_ptr + at, out, mask=mask)
    else:
        drift = tl.sum(tl.where(mask, on_unit * own, 0.0), axis=0)
        block = slot.to(tl.int64) * tl.cdiv(N, BLOCK_N) + row_block
        tl.store(drift_ptr + block * D + cols, drift, mask=mask_d)


@launch.kernel
def barlow_twins_drift_kernel(
    part_ptr,  # fp32 [V, blocks, D]
    drift_ptr,  # float64 [V, D] out
    D,
    N,
    blocks,
    BLOCK_D: tl.constexpr,
):
    """Means over all rows, blocks in order."""
    cols = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = cols < D
    part_ptr += tl.program_id(1).to(tl.int64) * blocks * D
    total = tl.zeros((BLOCK_D,), tl.float64)
    for block in range(blocks):
        part = tl.load(part_ptr + block * D.to(tl.int64) + cols, mask=mask, other=0.0)
        total += part.to(tl.float64)
    tl.store(drift_ptr + tl.program_id(1) * D + cols, total / N, mask=mask)


def barlow_twins_backward(
    grad: torch.Tensor,  # [3]
    x: torch.Tensor,  # [N, D]
    y: torch.Tensor,
    columns: torch.Tensor,  # [5, D]
    gram: torch.Tensor,
    lambda_: float,
    need_x: bool,
    need_y: bool,
    cuts: tiles.Cuts = tiles.CHOSEN,
    *,
    part: Part | None = None,
    squares: torch.Tensor | None = None,  # [2, D]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    with launch.on_device(x):
        device = launch.device_of(x)
        n, d = x.shape
        dtype = result_dtype(x.dtype) if part else x.dtype
        grad_x = x.new_empty((n, d), dtype=dtype) if need_x else None
        grad_y = x.new_empty((n, d), dtype=dtype) if need_y else None
        if not (need_x or need_y):
            return None, None
        x, y = launch.unit_columns(x), launch.unit_columns(y)
        views = [view for view, needed in enumerate((need_x, need_y)) if needed]
        wide = gram.numel() > 0 and takes_rows(*(part or (n, d)))
        splits = 0
        product = x.new_empty(0, dtype=torch.float32)
        if gram.numel() > 0:
            op = arithmetic.operand(x.dtype, device)
            side, stride = (n if wide else d), operands.padded(n if wide else d)
            copy = operands.workspace(x, op.planes, 2, d if wide else n, stride, op.dtype)
            standardized(x, y, columns, columns[2:], copy, wide, op.rounding, tile=cuts.center)
            matrix = operands.workspace(x, op.planes, 2, side, stride, op.dtype)
            matrices(gram, matrix, op.rounding, cuts.center)
            splits = products.splits(n, d, stride, op, device, cuts)
            product = x.new_empty((splits, len(views), n, d), dtype=torch.float32)
            for slot, view in enumerate(views):
                # K_b a and K_a b, or b C^T and a C.
                pair = (matrix[:, 1 - view], copy[:, view])
                if not wide:
                    pair = (copy[:, 1 - view], matrix[:, view])
                products.product(*pair, product[:, slot], op, device, cuts)
        if part and part.rows != n:
            grad = grad * (n / part.rows)  # what the kernels divide by n is divided by N

        tile = cuts.center
        blocks = triton.cdiv(n, tile.block_n)

        def rows(finish: bool, out: torch.Tensor) -> None:
            barlow_twins_rows_kernel[(blocks * triton.cdiv(d, tile.block_d), len(views))](
                grad,
                x,
                y,
                columns,
                product,
                out,
                grad_y if grad_x is None else grad_x,
                grad_x if grad_y is None else grad_y,
                n,
                d,
                len(views),
                views[0],
                splits,
                int(wide),
                x.stride(0),
                y.stride(0),
                grad.stride(0),
                lambda_,
                FINISH=finish,
                VEC=launch.vector_width(x, y),
                **tile.constexprs,
                num_warps=tile.num_warps,
            )

        if splits == 0 or squares is not None:
            on, c = grad[0] + grad[1], columns[4]
            drift = (on * (c - 1) * c).expand(len(views), d)
            if squares is not None and splits > 0:
                drift = drift + (grad[0] * lambda_ + grad[2]) * squares[views[0] : views[-1] + 1]
            drift = drift.mul(2 / n).contiguous()
        else:
            sums = x.new_empty((len(views), blocks, d), dtype=torch.float32)
            drift = x.new_empty((len(views), d), dtype=torch.float64)
            rows(False, sums)
            barlow_twins_drift_kernel[(triton.cdiv(d, 128), len(views))](
                sums, drift, d, n, blocks, BLOCK_D=128, num_warps=4
            )
        rows(True, drift)
    return grad_x, grad_y
