"""``.npy`` files: header and length checked on opening, rows read through a memory map.

Nothing is unpickled. A file that is cut short is refused from its header and its size, before any
row is read; a map that ran past the end of its file would kill the process instead.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np

_FLOATS = ("float16", "float32", "float64")
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_ZIP, _PICKLE = b"PK", b"\x80"


class DataError(ValueError):
    """What is wrong with an input file, in one line that names it."""


@dataclass(frozen=True)
class NpyFile:
    """A checked ``.npy`` file: its header, and its rows on demand."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    offset: int  # of the first element, in bytes

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> NpyFile:
        """Read and check the header; the file must hold every element that it promises."""
        name = os.fspath(path)
        try:
            with open(name, "rb") as handle:
                file = cls._from_header(name, handle)
                size = os.fstat(handle.fileno()).st_size
        except OSError as error:
            raise DataError(f"{name}: {error.strerror or error}") from error
        needed = file.offset + file.dtype.itemsize * int(np.prod(file.shape, dtype=object))
        if size < needed:
            raise DataError(
                f"{name}: truncated: {file.dtype} {list(file.shape)} takes {needed} bytes, "
                f"the file has {size}"
            )
        return file

    @classmethod
    def _from_header(cls, name: str, handle: BinaryIO) -> NpyFile:
        start = handle.read(8)
        if start[:6] != np.lib.format.MAGIC_PREFIX:
            raise DataError(f"{name}: not a .npy file{_guess(start)}")
        if len(start) < 8:
            raise DataError(f"{name}: truncated: the .npy header is cut short")
        version = (start[6], start[7])
        if version not in _HEADERS:
            raise DataError(f"{name}: .npy format {version[0]}.{version[1]}: takes 1.0 and 2.0")
        try:
            shape, fortran_order, dtype = _HEADERS[version](handle)
        except (ValueError, SyntaxError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{name}: the .npy header cannot be read: {reason}") from error
        if any(length < 0 for length in shape):
            raise DataError(f"{name}: the .npy header holds a negative length: {list(shape)}")
        if dtype.hasobject:
            raise DataError(f"{name}: dtype object (pickled Python objects); takes plain numbers")
        return cls(name, shape, dtype, fortran_order, handle.tell())

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def chunks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """``(first row, array)`` for consecutive chunks of at most ``rows`` rows.

        A chunk is a view of the file's pages. Only one in column (Fortran) order or in foreign byte
        order is a copy, of that chunk alone.
        """
        if 0 in self.shape:
            return
        try:
            with open(self.path, "rb") as handle:
                pages = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror or error}") from error
        order: Literal["C", "F"] = "F" if self.fortran_order else "C"
        whole: np.ndarray = np.ndarray(self.shape, self.dtype, pages, self.offset, order=order)
        native = self.dtype.newbyteorder("=")
        for start in range(0, self.shape[0], rows):
            if not self.fortran_order:
                self._advise(pages, "MADV_WILLNEED", start + rows, rows)  # read ahead
            yield start, np.require(whole[start : start + rows], native, ["C", "A"])
            if not self.fortran_order:
                self._advise(pages, "MADV_DONTNEED", start, rows)  # no longer this process's memory

    def _advise(self, pages: mmap.mmap, advice: str, row: int, rows: int) -> None:
        """Tell the system, where it listens, what becomes of the pages of some rows."""
        begin = self.offset + row * self.row_bytes
        begin -= begin % mmap.PAGESIZE
        length = min(rows * self.row_bytes, len(pages) - begin)
        if length > 0 and hasattr(mmap, advice):
            pages.madvise(getattr(mmap, advice), begin, length)


def open_embeddings(path: str | os.PathLike[str]) -> NpyFile:
    """Embeddings [N, D] of float16, float32 or float64, with at least one row and column.

    Raises:
        DataError: the file is missing, cut short, or holds something else.
    """
    file = NpyFile.open(path)
    if file.dtype.newbyteorder("=").name not in _FLOATS:
        hint = "; save bfloat16 as float32" if file.dtype.kind == "V" else ""
        raise DataError(f"{file.path}: embeddings are {', '.join(_FLOATS)}, got {file.dtype}{hint}")
    if len(file.shape) != 2:
        raise DataError(f"{file.path}: embeddings have shape [N, D], got {list(file.shape)}")
    if 0 in file.shape:
        raise DataError(f"{file.path}: no embeddings in an array of shape {list(file.shape)}")
    return file


def read_labels(path: str | os.PathLike[str], rows: int, of: str, ignore: int) -> np.ndarray:
    """Labels as int64 [rows], each ``ignore`` or not negative.

    Args:
        path: an integer ``.npy`` file of shape [rows].
        rows: how many embeddings they belong to.
        of: the file of those embeddings, for the error message.
        ignore: the label of rows to be skipped.

    Raises:
        DataError: the file is missing, cut short, of another shape or dtype, or holds a negative
            label; the message names the first such row.
    """
    file = NpyFile.open(path)
    if file.dtype.kind not in "iu":
        raise DataError(f"{file.path}: labels are integers, got {file.dtype}")
    if len(file.shape) != 1:
        raise DataError(f"{file.path}: labels have shape [N], got {list(file.shape)}")
    if file.shape[0] != rows:
        raise DataError(f"{file.path}: {file.shape[0]} labels for the {rows} rows of {of}")
    labels = np.empty(rows, dtype=np.int64)
    for start, part in file.chunks(1 << 20):
        if part.dtype == np.uint64 and (too_large := part > np.iinfo(np.int64).max).any():
            row = int(too_large.argmax())
            raise DataError(f"{file.path}: row {start + row} holds {part[row]}: too large a label")
        labels[start : start + len(part)] = part
    negative = (labels < 0) & (labels != ignore)
    if negative.any():
        row = int(negative.argmax())
        raise DataError(
            f"{file.path}: row {row} holds {labels[row]}: labels are 0, 1, 2, ..., "
            f"or {ignore} for rows to skip"
        )
    return labels


def _guess(start: bytes) -> str:
    if not start:
        return ": it is empty"
    if start.startswith(_ZIP):
        return " but a zip archive (.npz or .pt): save the array with numpy.save"
    if start.startswith(_PICKLE):
        return " but a pickle: save the array with numpy.save"
    return ""
