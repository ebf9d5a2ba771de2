"""Advice to the system on the pages under a map that somebody else has made."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

import torch

WILL_NEED: int | None = getattr(mmap, "MADV_WILLNEED", None)
DROP: int | None = getattr(mmap, "MADV_DONTNEED", None)  # from this process, not from the cache


def advise(rows: torch.Tensor, advice: int | None) -> None:
    """Tell what becomes of the pages under contiguous rows of a shared map of a file.

    It is a hint: where it fails, nothing changes.
    """
    if advice is None or _madvise is None or not rows.nbytes:
        return
    before = rows.data_ptr() % mmap.PAGESIZE
    _madvise(rows.data_ptr() - before, before + rows.nbytes, advice)


def _system_call(name: str) -> Callable[[int, int, int], int] | None:
    """``name(address, length, advice)`` without the interpreter lock, which the ``mmap`` module
    keeps while the system queues the reads; None where the system has no such call."""
    try:
        found = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    found.restype = ctypes.c_int
    return found


_madvise = _system_call("madvise")
