"""Rows of a file in blocks of memory: the one reader under ``.npy``, ``.safetensors`` and ``.pt``.

Rows are read, not mapped. A map of a file that somebody else cuts short kills the process where it
is touched, and no check before can rule that out; a read that ends early is an error like any
other. Blocks are used again once the last array or tensor on them is gone, so that streaming a file
of any size takes the memory of a few chunks, whose pages the system hands out once.
"""

from __future__ import annotations

import itertools
import math
import queue
import weakref
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Literal

import numpy as np

from sslkernels.data.errors import DataError, parsing
from sslkernels.data.files import Fingerprint, opened


def read_rows(
    file: Fingerprint,
    shape: tuple[int, ...],
    dtype: np.dtype,
    offset: int,
    cuts: Sequence[int],
    *,
    order: Literal["C", "F"] = "C",
) -> Iterator[np.ndarray]:
    """Rows ``cuts[0]:cuts[1]``, ``cuts[1]:cuts[2]``, ... of an array that starts at ``offset``.

    Each is a C-contiguous array in native byte order, the consumer's as long as it is kept.

    Raises:
        DataError: the file is not the one whose fingerprint this is, before or after its rows have
            been read, or ends before its rows do.
    """
    if 0 in shape or len(cuts) < 2:
        return
    width = math.prod(shape[1:])  # numbers in a row
    most = max(end - begin for begin, end in itertools.pairwise(cuts))
    blocks = _Blocks(most * width * dtype.itemsize)
    with opened(file.path, file) as (handle, _):
        for begin, end in itertools.pairwise(cuts):
            rows = blocks.lend(dtype, (end - begin) * width)
            if order == "C":
                _fill(handle, file.path, offset + begin * width * dtype.itemsize, rows)
                chunk = rows.reshape(end - begin, *shape[1:])
            else:  # each column lies in one stretch
                for j, column in enumerate(rows.reshape(width, end - begin)):
                    at = offset + (j * shape[0] + begin) * dtype.itemsize
                    _fill(handle, file.path, at, column)
                chunk = np.ascontiguousarray(rows.reshape((end - begin, *shape[1:]), order="F"))
            if not dtype.isnative:
                chunk = chunk.byteswap(inplace=True).view(dtype.newbyteorder("="))
            del rows
            yield chunk
            del chunk  # the consumer's reference is the last one


def _fill(handle: BinaryIO, path: str, offset: int, out: np.ndarray) -> None:
    with parsing(path):
        handle.seek(offset)
        got = handle.readinto(out.view(np.uint8).data)  # type: ignore[attr-defined]
    if got < out.nbytes:
        raise DataError(
            f"{path}: cut short while it was read: ends at byte {offset + got}, "
            f"its header promises {offset + out.nbytes} or more"
        )


class _Lent(weakref.ref):
    """An array that is lent, and the block that it lies on."""

    __slots__ = ("block",)
    block: np.ndarray


class _Blocks:
    """Blocks of one size, each lent again when the array that was made of it is gone.

    That array is made of a memoryview: NumPy's views of it keep the array itself alive, not just
    the block below, and so do tensors. What runs where its last reference ends is ``put``, which is
    not Python code: an exception that a signal raised there, in a finalizer, would be lost.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._back: queue.SimpleQueue[_Lent] = queue.SimpleQueue()
        self._lent: dict[int, _Lent] = {}  # kept, so that they are called

    def lend(self, dtype: np.dtype, count: int) -> np.ndarray:
        """An array [count] of ``dtype``, its values arbitrary."""
        try:
            back = self._back.get_nowait()
            block = self._lent.pop(id(back)).block
        except queue.Empty:
            block = np.empty(self._nbytes, np.uint8)
        array = np.frombuffer(block.data, dtype, count)
        lent = _Lent(array, self._back.put)
        lent.block = block
        self._lent[id(lent)] = lent
        return array
