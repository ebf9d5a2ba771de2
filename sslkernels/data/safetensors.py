"""``.safetensors`` files, memory-mapped.

The format is eight bytes that hold the length of a JSON header, the header, and the tensors in row
order, little-endian, at the offsets it names. Rows are read as those of ``.npy`` files: views of
pages that are dropped behind the reader, bfloat16 too.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import torch

from sslkernels.data.errors import DataError
from sslkernels.data.files import only
from sslkernels.data.mapped import MappedShard
from sslkernels.data.npy import NpyFile

_FLOATS = {"F16": "<f2", "BF16": "<i2", "F32": "<f4", "F64": "<f8"}
_INTEGERS = {
    **{"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"},
    **{"U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"},
}
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def shards(path: str, key: str | None) -> dict[str, MappedShard]:
    """The embeddings [N, D] or [L, N, D] under a key, or the only float matrix of the file."""
    tensors = _header(path)
    if key is None:
        found = [k for k, t in tensors.items() if t[0] in _FLOATS and len(t[1]) == 2]
        key = only(found, path, "2-D float tensor")
    name = f"{path}:{key}"
    kind, file = _file(path, key, tensors, _FLOATS, "embeddings are F16, BF16, F32 or F64")
    dtype = torch.bfloat16 if kind == "BF16" else None
    return {k: MappedShard(layer, n, dtype) for k, (n, layer) in file.layers(name).items()}


def labels(path: str, key: str | None) -> NpyFile:
    """The integers under a key, or the only integer tensor of the file."""
    tensors = _header(path)
    if key is None:
        found = [k for k, t in tensors.items() if t[0] in _INTEGERS]
        key = only(found, path, "integer tensor")
    return _file(path, key, tensors, _INTEGERS, "labels are integers")[1]


def _file(
    path: str,
    key: str,
    tensors: dict[str, tuple[str, tuple[int, ...], int]],
    takes: dict[str, str],
    taken: str,
) -> tuple[str, NpyFile]:
    if key not in tensors:
        holds = ", ".join(list(tensors)[:5]) or "no tensors"
        raise DataError(f"{path}: no tensor {key!r}; the file holds {holds}")
    kind, shape, offset = tensors[key]
    if kind not in takes:
        rows = shape[0] if shape else None
        raise DataError(f"{path}:{key}: {taken}, got {kind}", rows=rows)
    return kind, NpyFile(path, shape, np.dtype(takes[kind]), False, offset)


def _header(path: str) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """``{key: (dtype, shape, offset in the file)}``; the file holds all of each tensor."""
    try:
        with open(path, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise DataError(f"{path}: not a .safetensors file, or its header is cut short")
            text = handle.read(length)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    try:
        content = json.loads(text)
        tensors = {key: _tensor(about) for key, about in content.items() if key != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: the .safetensors header cannot be read: {error}") from error
    for key, (kind, shape, begin, end) in tensors.items():
        if kind in _FLOATS or kind in _INTEGERS:
            width = np.dtype({**_FLOATS, **_INTEGERS}[kind]).itemsize
            if end - begin != width * math.prod(shape):
                raise DataError(
                    f"{path}:{key}: the header is wrong: {kind} {list(shape)} does not take "
                    f"{end - begin} bytes"
                )
        if 8 + length + end > size:
            raise DataError(
                f"{path}:{key}: truncated: ends at byte {8 + length + end}, the file has {size}",
                rows=shape[0] if shape else None,
            )
    return {
        key: (kind, shape, 8 + length + begin) for key, (kind, shape, begin, _) in tensors.items()
    }


def _tensor(about: Any) -> tuple[str, tuple[int, ...], int, int]:
    shape = tuple(int(n) for n in about["shape"])
    begin, end = (int(n) for n in about["data_offsets"])
    if min((*shape, begin), default=0) < 0:
        raise ValueError("a negative length")
    return str(about["dtype"]), shape, begin, end
