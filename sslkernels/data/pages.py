"""Rows of a file as views of its pages: the one reader under ``.npy`` and ``.safetensors``.

Pages are asked for ahead of the reader and dropped from this process once the last view of them is
gone, so that streaming a file of any size holds a few chunks. The system may keep the file in its
own cache; that memory is given up when somebody needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from sslkernels.data.errors import DataError

_WILLNEED: int | None = getattr(mmap, "MADV_WILLNEED", None)
_POPULATE_READ = 22 if sys.platform == "linux" else None  # since Linux 5.14; not in mmap yet
_DONTNEED: int | None = getattr(mmap, "MADV_DONTNEED", None)


def mapped_rows(
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    offset: int,
    cuts: Sequence[int],
    *,
    order: Literal["C", "F"] = "C",
) -> Iterator[np.ndarray]:
    """Rows ``cuts[0]:cuts[1]``, ``cuts[1]:cuts[2]``, ... of an array that starts at ``offset``.

    The caller has checked that the file holds all of it: a map that ran past the end of its file
    would kill the process. A chunk is a read-only view of the file's pages. Only one in column
    (Fortran) order, in foreign byte order or at an unaligned offset is a copy, of that chunk alone.
    """
    if 0 in shape or len(cuts) < 2:
        return
    try:
        with open(path, "rb") as handle:
            pages = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    whole: np.ndarray = np.ndarray(shape, dtype, pages, offset, order=order)
    native = dtype.newbyteorder("=")
    for i, (begin, end) in enumerate(itertools.pairwise(cuts)):
        rows = whole[begin:end]
        if order == "F":  # its rows lie all over the file
            yield np.require(rows, native, ["C", "A"])
            continue
        if i + 2 < len(cuts):
            advise(whole[end : cuts[i + 2]], _WILLNEED)
        chunk = np.require(rows, native, ["C", "A"])
        if np.may_share_memory(chunk, rows):
            drop_with(chunk, pages)
        else:
            advise(rows, _DONTNEED)
        del rows
        yield chunk
        del chunk  # the consumer's reference is the last one


def drop_with(rows: np.ndarray, pages: object) -> None:
    """Drop the pages under ``rows`` from this process when the array is gone.

    Tensors made of it keep it. A NumPy view does not, and maps the pages that it reads again.
    Only for pages of a file that are unchanged or shared: private changes would be lost.
    ``pages`` owns the map, which is kept until then.
    """
    if _DONTNEED is not None and rows.nbytes:
        _sweeper.watch(rows, pages)


class _Watched(weakref.ref):
    """Rows, and what is left to do once they are gone."""

    __slots__ = ("address", "length", "pages")
    address: int
    length: int
    pages: object


class _Sweeper:
    """Drops pages in a thread of its own.

    The rows' last reference may end anywhere in the main thread. Python code that ran there, as
    ``weakref.finalize`` does, could be where Ctrl-C is raised, and an exception in a finalizer is
    printed and forgotten: the program would go on. Here nothing but ``put``, which is not Python
    code, runs at that place. Should the thread fall behind, who watches more rows does its work
    first, so that no more than the last rows ever wait.
    """

    def __init__(self) -> None:
        self._gone: queue.SimpleQueue[_Watched] = queue.SimpleQueue()
        self._watched: dict[int, _Watched] = {}  # alive, so that they are called
        self._thread: threading.Thread | None = None

    def watch(self, rows: np.ndarray, pages: object) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._sweep, name="sslkernels page sweeper", daemon=True
            )
            self._thread.start()
        with contextlib.suppress(queue.Empty):
            while True:
                self._drop(self._gone.get_nowait())
        watched = _Watched(rows, self._gone.put)
        watched.address, watched.length, watched.pages = rows.ctypes.data, rows.nbytes, pages
        self._watched[id(watched)] = watched

    def _sweep(self) -> None:
        while True:
            self._drop(self._gone.get())

    def _drop(self, rows: _Watched) -> None:
        _advise(rows.address, rows.length, _DONTNEED)
        del self._watched[id(rows)]  # and with it, perhaps, the map


_sweeper = _Sweeper()


def _new_sweeper() -> None:
    global _sweeper
    _sweeper = _Sweeper()


if hasattr(os, "register_at_fork"):  # a child has the rows but not the thread
    os.register_at_fork(after_in_child=_new_sweeper)


def fault_in(z: torch.Tensor) -> None:
    """Wait for the pages of a CPU tensor that are still on disk, so that no computation has to.

    Pages in the system's cache are left to whoever computes: several threads map them faster than
    one does ahead of them (17 against 11 GB/s of plain sums on 4 cores).
    """
    if z.device.type != "cpu" or not z.is_contiguous() or not z.nbytes or _mincore is None:
        return
    begin = z.data_ptr() - z.data_ptr() % mmap.PAGESIZE
    length = z.data_ptr() + z.nbytes - begin
    resident = np.empty(-(-length // mmap.PAGESIZE), dtype=np.uint8)
    if _mincore(begin, length, resident.ctypes.data) == 0 and not (resident & 1).all():
        _advise(z.data_ptr(), z.nbytes, _POPULATE_READ)


def advise(rows: np.ndarray, advice: int | None) -> None:
    """Tell the system what becomes of the pages under contiguous rows of a map."""
    if rows.nbytes:
        _advise(rows.ctypes.data, rows.nbytes, advice)


def _advise(address: int, length: int, advice: int | None) -> None:
    if advice is None or _madvise is None:
        return
    begin = address - address % mmap.PAGESIZE
    _madvise(begin, address - begin + length, advice)  # a hint: where it fails, nothing changes


def _system_call(name: str, last: type) -> Callable[[int, int, int], int] | None:
    """``name(address, length, ...)`` without the interpreter lock, which the ``mmap`` module keeps
    while the system queues the reads; None where the system has no such call."""
    try:
        found = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, last)
    found.restype = ctypes.c_int
    return found


_madvise = _system_call("madvise", ctypes.c_int)
_mincore = _system_call("mincore", ctypes.c_void_p)
