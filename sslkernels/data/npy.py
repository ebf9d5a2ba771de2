"""``.npy`` files: header and length checked on opening, rows read on demand.

Nothing is unpickled. A file that is cut short is refused from its header and its size, before any
row is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

import numpy as np

from sslkernels.data.blocks import read_rows
from sslkernels.data.errors import DataError, data_errors
from sslkernels.data.files import Fingerprint, opened

_FLOATS = ("float16", "float32", "float64")
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_ZIP, _PICKLE = b"PK", b"\x80"


@dataclass(frozen=True)
class NpyFile:
    """An array in one stretch of a file, ``.npy`` or other: its header, and its rows on demand."""

    file: Fingerprint
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    offset: int  # of the first element, in bytes

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> NpyFile:
        """Read and check the header; the file must hold every element that it promises."""
        name = os.fspath(path)
        with opened(name) as (handle, seen):
            file = cls._from_header(seen, handle)
        needed = file.offset + file.dtype.itemsize * math.prod(file.shape)
        if seen.size < needed:
            raise DataError(
                f"{name}: truncated: {file.dtype} {list(file.shape)} takes {needed} bytes, "
                f"the file has {seen.size}",
                rows=file._rows,
            )
        return file

    @property
    def path(self) -> str:
        return self.file.path

    @classmethod
    def _from_header(cls, seen: Fingerprint, handle: BinaryIO) -> NpyFile:
        name = seen.path
        with data_errors(name, "the .npy header cannot be read"):
            start = handle.read(8)
            if start[:6] != np.lib.format.MAGIC_PREFIX:
                raise DataError(f"{name}: not a .npy file{_guess(start)}")
            if len(start) < 8:
                raise DataError(f"{name}: truncated: the .npy header is cut short")
            version = (start[6], start[7])
            if version not in _HEADERS:
                raise DataError(
                    f"{name}: .npy format {version[0]}.{version[1]}: expected 1.0 or 2.0"
                )
            shape, fortran_order, dtype = _HEADERS[version](handle)
            offset = handle.tell()
        if any(length < 0 for length in shape):
            raise DataError(f"{name}: the .npy header holds a negative length: {list(shape)}")
        if dtype.hasobject:
            raise DataError(f"{name}: dtype object (pickled Python objects); takes plain numbers")
        return cls(seen, shape, dtype, fortran_order, offset)

    @property
    def _rows(self) -> int | None:
        return self.shape[0] if self.shape else None

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def read(self, cuts: Sequence[int]) -> Iterator[np.ndarray]:
        """Rows ``cuts[0]:cuts[1]``, ``cuts[1]:cuts[2]``, ... of the file as it was opened."""
        order: Literal["C", "F"] = "F" if self.fortran_order else "C"
        return read_rows(self.file, self.shape, self.dtype, self.offset, cuts, order=order)

    def layers(self, name: str) -> dict[str, tuple[str, NpyFile]]:
        """``{"": (name, file)}`` of [N, D], ``{"0": ("name[0]", file), ...}`` of [L, N, D]."""
        if len(self.shape) != 3 or 0 in self.shape:
            return {"": (name, two_dimensional(self))}
        if self.fortran_order:
            raise DataError(
                f"{self.path}: [L, N, D] in column (Fortran) order; "
                "save it with numpy.save(path, numpy.ascontiguousarray(z))"
            )
        size = self.row_bytes
        return {
            str(i): (
                f"{name}[{i}]",
                two_dimensional(replace(self, shape=self.shape[1:], offset=self.offset + i * size)),
            )
            for i in range(self.shape[0])
        }


def open_layers(path: str) -> dict[str, tuple[str, NpyFile]]:
    """Embeddings [N, D], or the layers of [L, N, D]."""
    return _floats(NpyFile.open(path)).layers(path)


def _floats(file: NpyFile) -> NpyFile:
    if file.dtype.newbyteorder("=").name not in _FLOATS:
        hint = "; save bfloat16 as float32" if file.dtype.kind == "V" else ""
        raise DataError(
            f"{file.path}: embeddings are {', '.join(_FLOATS)}, got {file.dtype}{hint}",
            rows=file._rows,
        )
    return file


def two_dimensional(file: NpyFile) -> NpyFile:
    if 0 in file.shape:
        raise DataError(
            f"{file.path}: no embeddings in an array of shape {list(file.shape)}", rows=file._rows
        )
    if len(file.shape) != 2:
        raise DataError(
            f"{file.path}: embeddings have shape [N, D], got {list(file.shape)}", rows=file._rows
        )
    return file


def _guess(start: bytes) -> str:
    if not start:
        return ": it is empty"
    if start.startswith(_ZIP):
        return " but a zip archive (.npz or .pt): save the array with numpy.save"
    if start.startswith(_PICKLE):
        return " but a pickle: save the array with numpy.save"
    return ""
