"""How NT-Xent is cut; plain products: ``product/tiles.py``."""

from __future__ import annotations

from sslkernels.backends.triton.core.arithmetic import Operand
from sslkernels.backends.triton.core.launch import Device
from sslkernels.backends.triton.product.tiles import LARGEST, ROWS, Gram, Stream, gram_candidates


def finish_tile(aligned: bool) -> Stream:
    """Without 128-bit loads every element of three inputs has an address of its own."""
    return ROWS if aligned else Stream(16, 32, 4, 1)


def logit_tiles(rows: int, columns: int, op: Operand, device: Device) -> tuple[Gram, ...]:
    """Tiles of a matrix: 64 x 64 where larger ones would leave processors idle."""
    *large, small = logit_candidates(op, device)
    few = -(-rows // LARGEST) * -(-columns // LARGEST) < device.processors
    return (small,) if few else (*large, small)


def logit_candidates(op: Operand, device: Device) -> tuple[Gram, ...]:
    """128 x 128 and 64 x 64; the second alone where the first spills: on AMD, and where three
    products leave its exponentials no registers."""
    large, small = gram_candidates(op.dtype, device)
    full = device.backend == "hip" or (op.planes == 2 and int(device.arch) >= 100)
    return (small,) if full else (large, small)


def column_splits(rows: int, columns: int, device: Device) -> int:
    """Into how many parts to cut the columns of so many tiles, for two programs per processor."""
    return max(1, min(2 * device.processors // rows, columns))
