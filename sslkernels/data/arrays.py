"""Embeddings in memory: torch tensors, NumPy arrays, anything with ``__dlpack__``."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sslkernels import _checks
from sslkernels.data.base import Shard
from sslkernels.data.errors import DataError


def is_array(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray)) or hasattr(value, "__dlpack__")


class ArrayShard(Shard):
    """A tensor [N, D], read in views of it."""

    def __init__(self, z: torch.Tensor, name: str, kind: str = "memory") -> None:
        self.name = name
        self._z = check(z, name)
        self._kind = kind
        self.rows, self.dim = z.shape
        self.dtype = z.dtype

    def read(self, cuts: Sequence[int]) -> Iterator[torch.Tensor]:
        for begin, end in itertools.pairwise(cuts):
            yield self._z[begin:end]

    def identity(self) -> dict[str, Any]:
        return about(self._kind, [self.rows, self.dim], self.dtype)


class MapShard(ArrayShard):
    """A ``numpy.memmap`` [N, D] in C order: views of it, whose pages leave this process two chunks
    later, when a consumer has let go of them; those of a view that is kept come back when it is
    read. Without this, a cold file of 0.8 GB is read in 3.7 s instead of 0.9 s, and stays mapped.
    """

    def __init__(self, z: np.memmap, name: str) -> None:
        super().__init__(_checks.as_tensor(z, name), name)
        self._map: Any = z._mmap  # type: ignore[attr-defined]
        self._start = z.ctypes.data - np.frombuffer(self._map, np.uint8).ctypes.data

    def read(self, cuts: Sequence[int]) -> Iterator[torch.Tensor]:
        chunks = list(itertools.pairwise(cuts))
        for i, (begin, end) in enumerate(chunks):
            for behind in chunks[max(i - 2, 0) : max(i - 1, 0)]:
                self._drop(*behind)
            yield self._z[begin:end]
        for behind in chunks[-2:]:
            self._drop(*behind)

    def _drop(self, begin: int, end: int) -> None:
        """Take the pages of some rows from this process; the system's cache keeps them."""
        row = self.dim * self.dtype.itemsize
        first = self._start + begin * row
        first -= first % mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, self._start + end * row - first)


def array_shards(z: Any, name: str) -> dict[str, Shard]:
    """``{"": shard}`` of an array [N, D], ``{"0": ...}`` of one [L, N, D]; checked."""
    if isinstance(z, np.memmap) and z.mode in ("r", "r+") and z.dtype.isnative:
        # Of a private, writable map ("c") the changes would be lost with the pages.
        maps = layers(z, name)
        if all(layer.flags.c_contiguous for _, layer in maps.values()):
            return {key: MapShard(layer, n) for key, (n, layer) in maps.items()}
    tensors = layers(tensor_of(z, name), name)
    return {key: ArrayShard(layer, n) for key, (n, layer) in tensors.items()}


def layers(z: Any, name: str) -> dict[str, tuple[str, Any]]:
    """``{"": (name, z)}``, or ``{"0": ("name[0]", z[0]), ...}`` of [L, N, D]."""
    if z.ndim != 3 or not len(z):
        return {"": (name, z)}
    return {str(i): (f"{name}[{i}]", layer) for i, layer in enumerate(z)}


def tensor_of(value: Any, name: str) -> torch.Tensor:
    try:
        return _checks.as_tensor(value, name).detach()
    except (TypeError, RuntimeError, BufferError) as error:
        reason = str(error) if str(error).startswith(name) else f"{name}: {error}"
        raise DataError(reason) from error


def check(z: torch.Tensor, name: str) -> torch.Tensor:
    """Embeddings [N, D] of a floating dtype, N and D at least 1."""
    rows = z.shape[0] if z.ndim else None
    if z.dtype not in _checks.FLOAT_DTYPES:
        raise DataError(
            f"{name}: embeddings are float16, bfloat16, float32 or float64, got {str(z.dtype)[6:]}",
            rows=rows,
        )
    if z.layout != torch.strided:
        raise DataError(f"{name}: embeddings are dense, got layout {str(z.layout)[6:]}")
    if z.ndim != 2:
        raise DataError(f"{name}: embeddings have shape [N, D], got {list(z.shape)}", rows=rows)
    if 0 in z.shape:
        raise DataError(f"{name}: no embeddings in an array of shape {list(z.shape)}", rows=rows)
    return z


def about(kind: str, shape: Sequence[int], dtype: torch.dtype) -> dict[str, Any]:
    return {"kind": kind, "shape": list(shape), "dtype": str(dtype)[6:]}
