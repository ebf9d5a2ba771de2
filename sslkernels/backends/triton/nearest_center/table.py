"""The centers as ``filter.py`` reads them: shifted, rounded, padded to whole blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton

from sslkernels.backends.triton.nearest_center import filter as filtering

CENTER_BLOCK = 256  # columns per step of center_kernel
PITCH = 64  # the table's rows are padded to multiples of every BLOCK_K


def usable_centers(centers: torch.Tensor) -> torch.Tensor:
    return centers.isfinite().all(dim=1).to(torch.uint8)


class Table(NamedTuple):
    """The centers as the kernels read them; ``filter.py`` has the symbols."""

    first: torch.Tensor  # [rows, pitch] m in the first pass's type
    hi: torch.Tensor  # [rows, pitch] bf16
    lo: torch.Tensor  # [rows, pitch] bf16
    h_first: torch.Tensor  # [rows] fp32: h of x, or of x - g where the first pass subtracts it
    h_shifted: torch.Tensor  # [rows] fp32: h of x - g
    g: torch.Tensor  # [D] fp32
    # [BOUNDS] fp32, the largest of each: ||m||, ||m - m^||, ||m - hi||, ||m - hi - lo||, |h_first|,
    # |h_shifted|, ||mu||. center_kernel writes them for every row.
    bounds: torch.Tensor


class Found(NamedTuple):
    """What the filter leaves of N rows."""

    score: torch.Tensor  # [N, spans, KEEP] fp32: candidates, best first
    index: torch.Tensor  # [N, spans, KEEP] int32: their classes
    rest: torch.Tensor  # [N, spans] fp32: the best score that is not among them
    error: torch.Tensor  # [N] fp32: E
    limit: torch.Tensor  # [N] fp32: the largest score of a candidate, from center_choice_kernel


class Lists(NamedTuple):
    """Rows that are not decided yet; ``choice.py`` says which."""

    few: torch.Tensor  # [N] int32
    many: torch.Tensor  # [N] int32
    every: torch.Tensor  # [N] int32
    counts: torch.Tensor  # [3] int32: entries of each


def center_table(
    centers: torch.Tensor, usable: torch.Tensor, count: torch.Tensor, dtype: torch.dtype, block: int
) -> Table:
    """For rows of ``dtype``; padded to a multiple of ``block`` centers. One launch.

    ``usable`` [C] uint8 and ``count``, how many of them are.
    """
    c, d = centers.shape
    rows = triton.cdiv(c, block) * block
    pitch = triton.cdiv(d, PITCH) * PITCH
    hi, lo = centers.new_empty((2, rows, pitch), dtype=torch.bfloat16)
    # fp16 rows are multiplied by fp16 centers; for the others the first pass reads ``hi``.
    first = torch.empty_like(hi, dtype=dtype) if dtype == torch.float16 else hi
    finite = centers.where(usable.bool().unsqueeze(1), 0.0)
    g = (finite.sum(dim=0, dtype=torch.float64) / count.clamp(min=1)).float()
    bounds = g.new_empty((rows, filtering.BOUNDS))
    table = Table(first, hi, lo, g.new_empty(rows), g.new_empty(rows), g, bounds)
    filtering.center_kernel[(rows,)](
        centers,
        usable,
        table,
        c,
        d,
        pitch,
        SHIFTED=dtype == torch.float32,
        BLOCK_D=CENTER_BLOCK,
        num_warps=2,
    )
    return table._replace(bounds=table.bounds.amax(dim=0))
