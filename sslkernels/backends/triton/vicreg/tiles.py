"""How VICReg is cut; products and operands: ``product/tiles.py``."""

from __future__ import annotations

import torch

from sslkernels.backends.triton.core.launch import GRID, Device
from sslkernels.backends.triton.product.tiles import Backward, backward_candidates

WITHOUT_PRODUCT = Backward(16, 128, 16, 4, 1)


def problems_at_once(count: int, size: int) -> int:
    """How many problems (of ``size`` bytes of operands each) share a launch: as many as stay in the
    L2 cache from the kernel that writes the operands to the one that reads them. It also bounds
    the workspace: large problems reuse one buffer in turn. Problems are a grid's second axis."""
    return max(1, min(count, (32 << 20) // size, GRID))


def backward_tiles(
    n: int, d: int, dtype: torch.dtype, device: Device, product: bool, aligned: bool
) -> tuple[Backward, ...]:
    """The small tile where the large one would leave processors idle, and for inputs without
    128-bit loads, whose addresses do not fit the registers beside a large tile."""
    if not product:
        return (WITHOUT_PRODUCT,)
    large, small = backward_candidates(dtype, device)
    if not aligned:
        return (small,)
    tiles = -(-n // large.block_n) * -(-d // large.block_d)
    return (small, large) if 2 * tiles < device.processors else (large, small)
