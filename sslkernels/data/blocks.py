"""Rows of a file in blocks of memory: the one reader under ``.npy``, ``.safetensors`` and ``.pt``.

Rows are read, not mapped. A map of a file that somebody else cuts short kills the process where it
is touched, and no check before can rule that out; a read that ends early is an error like any
other. Blocks are used again once the last array or tensor on them is gone, so that streaming a file
of any size takes the memory of a few chunks, whose pages the system hands out once.
"""

from __future__ import annotations

import itertools
import math
import os
import queue
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, Literal

import numpy as np

from sslkernels.data.errors import DataError, data_errors
from sslkernels.data.files import Fingerprint, opened

_PART = 4 << 20  # bytes that one call reads
_READERS = min(4, os.cpu_count() or 1)  # threads: one alone copies slower than memory could


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
    size, width = dtype.itemsize, math.prod(shape[1:])
    blocks = _Blocks(max(map(_length, itertools.pairwise(cuts))) * width * size)
    with opened(file.path, file) as (handle, _), ThreadPoolExecutor(_READERS) as readers:
        for i, (begin, end) in enumerate(itertools.pairwise(cuts)):
            numbers = blocks.lend(dtype, (end - begin) * width)
            if order == "C":
                stretches = [(begin * width, numbers)]
                for after in cuts[i + 2 : i + 3]:
                    _ask_for(handle, offset + end * width * size, (after - end) * width * size)
            else:  # one of each column
                columns = enumerate(numbers.reshape(width, end - begin))
                stretches = [(j * shape[0] + begin, column) for j, column in columns]
            parts = [
                (offset + first * size + at, stretch.view(np.uint8)[at : at + _PART])
                for first, stretch in stretches
                for at in range(0, stretch.nbytes, _PART)
            ]
            for _ in readers.map(partial(_fill, handle, file.path), *zip(*parts, strict=True)):
                pass
            chunk = np.ascontiguousarray(numbers.reshape((end - begin, *shape[1:]), order=order))
            if not dtype.isnative:
                chunk = chunk.byteswap(inplace=True).view(dtype.newbyteorder("="))
            del numbers, stretches, parts
            yield chunk
            del chunk  # the consumer's reference is the last one


def _length(cut: tuple[int, int]) -> int:
    return cut[1] - cut[0]


def _ask_for(handle: BinaryIO, offset: int, nbytes: int) -> None:
    """Let the system fetch what is read next; a hint."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle.fileno(), offset, nbytes, os.POSIX_FADV_WILLNEED)


def _fill(handle: BinaryIO, path: str, offset: int, out: np.ndarray) -> None:
    """Read ``out``, uint8, from the file at ``offset``."""
    done = 0
    while done < len(out):
        with data_errors(path):
            got = os.preadv(handle.fileno(), [out[done:].data], offset + done)
        if got == 0:
            raise DataError(
                f"{path}: cut short while it was read: ends before byte {offset + len(out)}"
            )
        done += got


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
