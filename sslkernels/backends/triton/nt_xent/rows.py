"""NT-Xent's passes over rows: unit rows as a product reads them, and gradients by the rows from
gradients by the unit rows. Mathematics in ``passes/nt_xent.py``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import arithmetic, launch, numerics
from sslkernels.backends.triton.nt_xent.tiles import finish_tile
from sslkernels.backends.triton.product import tiles
from sslkernels.backends.triton.product.operands import PAD, padded, store_tile
from sslkernels.numerics.unit_rows import MIN_NORM

_MIN_NORM = tl.constexpr(MIN_NORM)


def own_stretches(
    n: int, own: tuple[int, int] | None, of_x: bool = True, of_y: bool = True
) -> list[tuple[int, int]]:
    """Own rows among the 2N of both views: (first row, number) of each stretch, all of one length;
    of one view only, those of that."""
    first, samples = own or (0, n)
    if samples == n and of_x and of_y:
        return [(0, 2 * n)]
    return [(first + view * n, samples) for view, wanted in enumerate((of_x, of_y)) if wanted]


@triton.jit
def load_rows(x_ptr, y_ptr, stride_xn, stride_yn, rows, cols, N, D):
    """fp32 rows of both views, numbered through; zero where there is none."""
    inside = (cols < D)[None, :]
    at = rows.to(tl.int64)[:, None]
    of_x = (rows >= 0) & (rows < N)
    of_y = (rows >= N) & (rows < 2 * N)
    x = tl.load(x_ptr + (at * stride_xn + cols[None, :]), mask=of_x[:, None] & inside, other=0.0)
    at = (rows - N).to(tl.int64)[:, None]
    y = tl.load(y_ptr + (at * stride_yn + cols[None, :]), mask=of_y[:, None] & inside, other=0.0)
    return tl.where(of_x[:, None], x, y).to(tl.float32)


@triton.jit
def load_norms(norm_ptr, rows, M):
    """(norm, what rows are divided by), float64."""
    norm = tl.load(norm_ptr + rows, mask=rows < M, other=1.0)
    return norm, tl.where(norm < _MIN_NORM, _MIN_NORM, norm)  # keeps a NaN


@launch.kernel
def unit_rows_kernel(
    x_ptr,  # [N, D]
    y_ptr,
    unit_ptr,  # [planes, 2N and more, D padded] out
    turned_ptr,  # [planes, D, 2N padded] out, if TRANSPOSE
    norm_ptr,  # float64 [2N] out, if TRANSPOSE
    N,
    D,
    stride_xn,
    stride_yn,
    stride_unit,
    unit_plane,
    stride_turned,
    turned_plane,
    TRANSPOSE: tl.constexpr,
    ROUNDING: tl.constexpr,
    VEC: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    D = D // VEC * VEC
    stride_xn = stride_xn // VEC * VEC
    stride_yn = stride_yn // VEC * VEC
    stride_unit = stride_unit // PAD * PAD
    unit_plane = unit_plane // PAD * PAD
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    square = tl.zeros((BLOCK_N,), tl.float64)
    for left in range(0, D, BLOCK_D):
        cols = left + tl.arange(0, BLOCK_D)
        z = load_rows(x_ptr, y_ptr, stride_xn, stride_yn, rows, cols, N, D).to(tl.float64)
        square += tl.sum(z * z, axis=1)
    norm = tl.sqrt(square)
    factor = 1.0 / tl.where(norm < _MIN_NORM, _MIN_NORM, norm)  # keeps a NaN
    for left in range(0, stride_unit, BLOCK_D):
        cols = left + tl.arange(0, BLOCK_D)
        z = load_rows(x_ptr, y_ptr, stride_xn, stride_yn, rows, cols, N, D).to(tl.float64)
        unit = (z * factor[:, None]).to(tl.float32)
        place = (rows, cols, 2 * N, D)
        store_tile(unit_ptr, unit, *place, stride_unit, unit_plane, False, ROUNDING)
        if TRANSPOSE:
            stride_turned = stride_turned // PAD * PAD
            turned_plane = turned_plane // PAD * PAD
            store_tile(turned_ptr, unit, *place, stride_turned, turned_plane, True, ROUNDING)
    if TRANSPOSE:
        tl.store(norm_ptr + rows, norm, mask=rows < 2 * N)


def unit_workspace(x: torch.Tensor, op: arithmetic.Operand) -> torch.Tensor:
    """[planes, 2N and more, D padded]: a tile that begins at any row ends inside."""
    n, d = x.shape
    return x.new_empty((op.planes, 2 * n + tiles.LARGEST, padded(d)), dtype=op.dtype)


def unit_rows(
    x: torch.Tensor,  # [N, D] unit column stride
    y: torch.Tensor,
    units: torch.Tensor,  # unit_workspace's
    turned: tuple[torch.Tensor, torch.Tensor] | None,  # [planes, D, 2N padded], norms [2N]
    rounding: str,
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> None:
    """Rows of both views divided by max(norm, 1e-12). One launch."""
    n, d = x.shape
    tile = cuts.rows or tiles.ROWS
    transposed, norm = turned or (units, units)
    unit_rows_kernel[(triton.cdiv(2 * n, tile.block_n),)](
        x,
        y,
        units,
        transposed,
        norm,
        n,
        d,
        x.stride(0),
        y.stride(0),
        units.stride(1),
        units.stride(0),
        transposed.stride(1),
        transposed.stride(0),
        TRANSPOSE=turned is not None,
        ROUNDING=rounding,
        VEC=launch.vector_width(x, y),
        PAD=PAD,
        **tile.constexprs,
        num_warps=tile.num_warps,
    )


@triton.jit
def missing_share(rows_ptr, rows, M):
    """1 - exp(-loss) of a row, the share of its softmax that its positive lacks, in float64."""
    loss = tl.load(rows_ptr + M.to(tl.int64) + rows, mask=rows < M, other=0.0)
    # By the series where the difference would lose digits; the next term is below 1e-17.
    series = 1.0 - loss * (1.0 / 5.0)
    for k in tl.static_range(4, 1, -1):
        series = 1.0 - loss * (1.0 / k) * series
    return tl.where(loss < 1e-3, loss * series, 1.0 - tl.exp(-loss))


@triton.jit
def on_units(
    x_ptr, y_ptr, part_ptr, stride_xn, stride_yn, rows, cols, partner, N, D,
    own, count, splits, factor, partner_factor, on_lse, on_partner,
):  # fmt: skip
    """(unit rows, 2N temperature times their gradient), fp32 [BLOCK_N, BLOCK_D]."""
    mask = (own < count)[:, None] & (cols < D)[None, :]
    at = own.to(tl.int64)[:, None] * D + cols[None, :]
    plane = count.to(tl.int64) * D
    total = tl.load(part_ptr + at, mask=mask, other=0.0)
    for s in range(1, splits):
        total += tl.load(part_ptr + s * plane + at, mask=mask, other=0.0)
    z = load_rows(x_ptr, y_ptr, stride_xn, stride_yn, rows, cols, N, D)
    unit = (z.to(tl.float64) * factor[:, None]).to(tl.float32)
    z = load_rows(x_ptr, y_ptr, stride_xn, stride_yn, partner, cols, N, D)
    other = (z.to(tl.float64) * partner_factor[:, None]).to(tl.float32)
    return unit, total * on_lse + other * on_partner[:, None]


@launch.kernel
def nt_xent_finish_kernel(
    grad_ptr,  # fp32 [3], of the terms
    x_ptr,  # [N, D]
    y_ptr,
    rows_ptr,  # float64 [2, 2N]
    norm_ptr,  # float64 [2N]
    part_ptr,  # fp32 [splits, count, D]: products of weights and unit rows
    grad_x_ptr,  # [samples, D] out, if of_x
    grad_y_ptr,  # [samples, D] out, if count > of_x
    along_ptr,  # float64 [count] out: 2N temperature times products of unit rows and gradients
    N,
    D,
    stride_xn,
    stride_yn,
    stride_grad,
    first,  # own sample
    of_x,  # how many of the rows are of the first view
    count,  # rows to do
    splits,
    inverse,  # 1 / (2N temperature)
    VEC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The pairs' part of the gradient by the unit rows, and the gradient by the rows."""
    D = D // VEC * VEC
    stride_xn = stride_xn // VEC * VEC
    stride_yn = stride_yn // VEC * VEC
    on_loss = tl.load(grad_ptr)
    on_alignment = tl.load(grad_ptr + stride_grad)
    on_uniformity = tl.load(grad_ptr + 2 * stride_grad)
    on_lse = on_loss + on_uniformity

    own = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_x = own < of_x
    sample = tl.where(in_x, own, own - of_x)
    rows = first + sample + tl.where(in_x, 0, N)
    partner = first + sample + tl.where(in_x, N, 0)
    norm, length = load_norms(norm_ptr, rows, 2 * N)
    _, partner_length = load_norms(norm_ptr, partner, 2 * N)
    factor = 1.0 / length
    partner_factor = 1.0 / partner_length
    missing = missing_share(rows_ptr, rows, 2 * N) + missing_share(rows_ptr, partner, 2 * N)
    on_partner = (2.0 * (on_uniformity - on_alignment) - on_lse * missing).to(tl.float32)

    along = tl.zeros((BLOCK_N,), tl.float64)
    for left in range(0, D, BLOCK_D):
        cols = left + tl.arange(0, BLOCK_D)
        unit, on_unit = on_units(
            *(x_ptr, y_ptr, part_ptr, stride_xn, stride_yn, rows, cols, partner, N, D),
            *(own, count, splits, factor, partner_factor, on_lse, on_partner),
        )
        along += tl.sum(unit.to(tl.float64) * on_unit.to(tl.float64), axis=1)
    tl.store(along_ptr + own, along, mask=own < count)
    inside = tl.where(norm < _MIN_NORM, 0.0, along)
    scale = (inverse * factor).to(tl.float32)
    for left in range(0, D, BLOCK_D):
        cols = left + tl.arange(0, BLOCK_D)
        unit, on_unit = on_units(
            *(x_ptr, y_ptr, part_ptr, stride_xn, stride_yn, rows, cols, partner, N, D),
            *(own, count, splits, factor, partner_factor, on_lse, on_partner),
        )
        # In float64: what is left may be a small part of both.
        rest = (on_unit.to(tl.float64) - inside[:, None] * unit.to(tl.float64)).to(tl.float32)
        out = numerics.narrow(rest * scale[:, None], grad_x_ptr.dtype.element_ty)
        at = sample.to(tl.int64)[:, None] * D + cols[None, :]
        mask = (cols < D)[None, :] & (own < count)[:, None]
        tl.store(grad_x_ptr + at, out, mask=mask & in_x[:, None])
        tl.store(grad_y_ptr + at, out, mask=mask & (own >= of_x)[:, None])


def finish_rows(
    grad: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    rows: torch.Tensor,
    norm: torch.Tensor,
    part: torch.Tensor,  # fp32 [splits, rows to do, D]
    grad_x: torch.Tensor | None,
    grad_y: torch.Tensor | None,
    first: int,
    temperature: float,
    cuts: tiles.Cuts = tiles.CHOSEN,
) -> torch.Tensor:
    """Writes the gradients; returns 2N temperature times the products of unit rows and theirs."""
    n, d = x.shape
    splits, count, _ = part.shape
    along = part.new_empty(count, dtype=torch.float64)
    vec = launch.vector_width(x, y)
    tile = cuts.rows or finish_tile(vec > 1)
    some = grad_y if grad_x is None else grad_x
    nt_xent_finish_kernel[(triton.cdiv(count, tile.block_n),)](
        grad,
        x,
        y,
        rows,
        norm,
        part,
        some,
        some if grad_y is None else grad_y,
        along,
        n,
        d,
        x.stride(0),
        y.stride(0),
        grad.stride(0),
        first,
        0 if grad_x is None else grad_x.shape[0],
        count,
        splits,
        1.0 / (2 * n * temperature),
        VEC=vec,
        **tile.constexprs,
        num_warps=tile.num_warps,
    )
    return along
