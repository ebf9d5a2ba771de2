"""Every row against every class center at the accuracy of fp32, decided in float64 where that does
not tell: the rank of the own center, leave-one-out, sums of directional variance.

``kernels.py`` has the mathematics. Once per call: centers to operands, rows in class
order (a stable sort on the device). Then for as many rows at a time as a bounded workspace takes:

1. rows to operands, and all that float64 knows of a row by itself;
2. directional only: products of the centers of these rows' classes and all centers, once for all
   rows where C x C of them are small;
3. products of these rows and all centers;
4. ranks, leave-one-out and directional sums per row, float64 where the products do not tell;

and at the end sums of rows by class. Nothing is N x C, nothing waits for the device, every sum has
a fixed order. Rows without a class come first in the order, and their tiles cost no product.
"""

from __future__ import annotations

import torch
import triton

from sslkernels.backends.triton.class_projections import kernels, tiles
from sslkernels.backends.triton.core import arithmetic, launch
from sslkernels.backends.triton.mean_pairs import pairs
from sslkernels.backends.triton.nearest_center.table import usable_centers
from sslkernels.backends.triton.product.operands import PAD
from sslkernels.backends.triton.product.tiles import GROUP, LARGEST, CenterTile

_ROW_BLOCK = 512
_CLASS_BLOCK = 1024
_OPEN_BLOCK = 256
_SPREAD_BLOCK = 1024
_PITCH = 64  # columns of an operand: whole steps of the product
_CHOSEN = tiles.Cuts()


def class_projections_forward(
    z: torch.Tensor,
    classes: torch.Tensor,
    centers: torch.Tensor,
    counts: torch.Tensor | None,
    directional: bool,
    between: torch.Tensor | None = None,
    cuts: tiles.Cuts = _CHOSEN,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where every row stands among the class centers.

    Args:
        z: [N, D] fp16, bf16 or fp32. Columns must be contiguous to stay so: anything else is copied
            (``launch.unit_columns``).
        classes: int64 [N], -1 for rows to skip.
        centers: float64 [C, D], contiguous. A center that is not finite is an empty class.
        counts: int64 [C], rows per class, for leave-one-out; None to leave that out.
        directional: whether ``spread`` is wanted.
        between: not read: distances are products of their own here.
        cuts: how the work is cut.

    Returns:
        ``rank`` int64 [N]: how many centers come before the own one in the order of (float64
        distance, class); C for rows that are not finite or whose own center is empty, -1 for
        skipped rows. ``alone`` bool [N]: the own center is the nearest after the row has left its
        class. ``spread`` float64 [C]: the sum over the rows of a class and over the other centers
        of ((z - mu_c).(mu_j - mu_c))^2 / ||mu_j - mu_c||^4; NaN where a row is not finite or two
        centers are the same.
    """
    n, c = len(z), len(centers)
    rank = torch.full((n,), -1, dtype=torch.int64, device=z.device)
    alone = torch.zeros(n, dtype=torch.uint8, device=z.device)
    spread = torch.zeros(c, dtype=torch.float64, device=z.device)
    if n and c:
        z = launch.unit_columns(z)
        with launch.on_device(z):
            table = _centers(centers, counts)
            ordered, order = torch.sort(classes, stable=True)
            sums = _rows(z, ordered, order, table, directional, rank, alone, cuts)
            if directional:
                bounds = torch.searchsorted(ordered, torch.arange(c + 1, device=z.device))
                kernels.projection_spread_kernel[(c,)](
                    sums, bounds, spread, BLOCK=_SPREAD_BLOCK, num_warps=4
                )
    return rank, alone.bool(), spread


def _centers(centers: torch.Tensor, counts: torch.Tensor | None) -> kernels.Centers:
    c, d = centers.shape
    usable = usable_centers(centers)
    filled = usable.bool()
    finite = centers.where(filled.unsqueeze(1), 0.0)
    g, norm = pairs.center(finite, filled, filled.sum())
    norm = norm.where(filled, 0.0)
    power = pairs.scale_of(norm, filled)
    norm = norm * power * power
    unscale = torch.exp2(torch.floor(torch.log2(norm.sqrt().clamp(min=2.0**-100))) - 13)
    # Tiles read past the last class.
    shape = (triton.cdiv(c, LARGEST) * LARGEST, triton.cdiv(d, _PITCH) * _PITCH)
    rows = centers.new_empty((arithmetic.HALVES.planes, *shape), dtype=arithmetic.HALVES.dtype)
    pairs.centered_rows(finite, g, (power / unscale).where(filled, 0.0), rows, arithmetic.HALVES)
    factor = torch.full_like(norm, torch.inf)
    if counts is not None:
        factor = (counts.double() / (counts - 1)).square()
    return kernels.Centers(
        centers,
        usable,
        g,
        power,
        rows,
        unscale.float(),
        (norm / 2).float(),
        (norm.sqrt() * (1 + 2.0**-20)).float(),
        factor,
    )


def _rows(
    z: torch.Tensor,
    ordered: torch.Tensor,  # [N] int64: classes, ascending
    order: torch.Tensor,  # [N] int64: their rows
    table: kernels.Centers,
    directional: bool,
    rank: torch.Tensor,
    alone: torch.Tensor,
    cuts: tiles.Cuts,
) -> torch.Tensor:
    """Fills ``rank`` and ``alone``; returns the rows' sums in class order, float64 [N]."""
    (n, d), c = z.shape, len(table.given)
    device = launch.device_of(z)
    tile = cuts.tile or tiles.choose(device)
    planes, _, pitch = table.operand.shape
    row_bytes = planes * pitch * table.operand.element_size()
    part, whole = tiles.rows(n, c, row_bytes, tile, device)
    part = cuts.rows or part
    whole = whole if cuts.whole is None else cuts.whole
    out_pitch = triton.cdiv(c, PAD) * PAD
    a = table.operand.new_empty((planes, part, pitch))
    own = table.g.new_empty(part)
    facts = [table.half.new_empty(part) for _ in range(5)]
    products = table.half.new_empty((part, out_pitch))
    spread = own.new_empty(n if directional else 1)
    gram, slots = products, ordered  # not read unless directional
    if directional:
        gram = products.new_empty((c if whole else min(part, c), out_pitch))
        slots = ordered.clamp(min=0).int()
        if whole:
            every = torch.arange(c, dtype=torch.int32, device=z.device)
            _multiply(
                table.operand, table.unscale, table, gram, tile, (every, every.new_full((1,), c))
            )
    vec = launch.vector_width(z)
    for begin in range(0, n, part):
        here = slice(begin, min(begin + part, n))
        slot = slots[here]
        rows = kernels.Rows(order[here], ordered[here], a, own, *facts)
        kernels.projection_rows_kernel[(len(slot),)](
            z,
            rows,
            table,
            d,
            z.stride(0),
            pitch,
            a.stride(0),
            DIRECTIONAL=directional,
            ROUNDING=arithmetic.HALVES.rounding,
            VEC=vec,
            PAD=PAD,
            BLOCK=_ROW_BLOCK,
            num_warps=4,
        )
        if directional and not whole:
            slot, runs = _runs(slot)
            listed = (runs, slot[-1:] + 1)
            _multiply(table.operand, table.unscale, table, gram, tile, listed)
        _multiply(a, rows.unscale, table, products[: len(slot)], tile, None)
        kernels.projection_decide_kernel[(len(slot),)](
            z,
            rows,
            table,
            products,
            gram,
            slot,
            rank,
            alone,
            spread[here] if directional else spread,
            c,
            d,
            z.stride(0),
            out_pitch,
            DIRECTIONAL=directional,
            VEC=vec,
            PAD=PAD,
            BLOCK_C=_CLASS_BLOCK,
            BLOCK_D=_OPEN_BLOCK,
            BLOCK_K=tile.block_k,
            num_warps=4,
        )
    return spread


def _runs(classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For sorted int32 classes, the number of each one's run, and the classes of the runs."""
    starts = torch.ones_like(classes)
    starts[1:] = classes[1:] != classes[:-1]
    slot = starts.cumsum(0, dtype=torch.int32) - 1
    # All rows of a run write one and the same class.
    return slot, torch.zeros_like(classes).scatter_(0, slot.long(), classes)


def _multiply(
    a: torch.Tensor,  # [planes, rows padded, pitch] fp16
    unscale: torch.Tensor,  # fp32, one for each row of a
    table: kernels.Centers,
    out: torch.Tensor,  # [rows, out_pitch] fp32
    tile: CenterTile,
    listed: tuple[torch.Tensor, torch.Tensor] | None,  # which rows of a, int32, and how many
) -> None:
    """Products of rows and all centers, one launch."""
    c = len(table.given)
    row_tiles, col_tiles = triton.cdiv(len(out), tile.block_n), triton.cdiv(c, tile.block_c)
    rows, count = (out, out) if listed is None else listed
    kernels.projection_kernel[(row_tiles * col_tiles,)](
        a,
        unscale,
        table,
        rows,
        count,
        out,
        len(out),
        c,
        row_tiles,
        col_tiles,
        GROUP,
        a.stride(1),
        a.stride(0),
        table.operand.stride(0),
        out.stride(0),
        LISTED=listed is not None,
        PAD=PAD,
        **tile.constexprs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
