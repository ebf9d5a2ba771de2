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


class CenterTable(NamedTuple):
    """What the filter and its choice read of the centers."""

    centers: torch.Tensor
    usable: torch.Tensor  # [C] uint8
    count: torch.Tensor  # 0-d int64: how many are usable
    first: torch.Tensor  # [rows, pitch] in the first pass's type
    hi: torch.Tensor  # [rows, pitch] bf16
    lo: torch.Tensor  # [rows, pitch] bf16
    h_first: torch.Tensor  # [rows] fp32
    h_shifted: torch.Tensor  # [rows] fp32
    g: torch.Tensor  # [D] fp32
    bounds: torch.Tensor  # [BOUNDS] fp32


def center_table(centers: torch.Tensor, dtype: torch.dtype, block: int) -> CenterTable:
    """For rows of ``dtype``; the table is padded to a multiple of ``block`` centers. One launch."""
    c, d = centers.shape
    rows = triton.cdiv(c, block) * block
    pitch = triton.cdiv(d, PITCH) * PITCH
    new = centers.new_empty
    hi, lo = new((rows, pitch), dtype=torch.bfloat16), new((rows, pitch), dtype=torch.bfloat16)
    # fp16 rows are multiplied by fp16 centers; for the others the first pass reads ``hi``.
    first = new((rows, pitch), dtype=dtype) if dtype == torch.float16 else hi
    h_first, h_shifted = new(rows, dtype=torch.float32), new(rows, dtype=torch.float32)
    bounds = new((rows, filtering.BOUNDS), dtype=torch.float32)
    usable = usable_centers(centers)
    count = usable.sum(dtype=torch.int64)
    finite = centers.where(usable.bool().unsqueeze(1), 0.0)
    g = (finite.sum(dim=0, dtype=torch.float64) / count.clamp(min=1)).float()
    filtering.center_kernel[(rows,)](
        centers,
        usable,
        g,
        first,
        hi,
        lo,
        h_first,
        h_shifted,
        bounds,
        c,
        d,
        pitch,
        SHIFTED=dtype == torch.float32,
        BLOCK_D=CENTER_BLOCK,
        num_warps=2,
    )
    worst = bounds.amax(dim=0)
    return CenterTable(centers, usable, count, first, hi, lo, h_first, h_shifted, g, worst)
