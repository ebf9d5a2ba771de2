"""``.safetensors`` files.

The format is eight bytes that hold the length of a JSON header, the header, and the tensors in row
order, little-endian, at the offsets it names. Rows are read as those of ``.npy`` files, bfloat16
too.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch

from sslkernels.data.errors import DataError, data_errors
from sslkernels.data.files import Fingerprint, only, opened
from sslkernels.data.npy import NpyFile
from sslkernels.data.stretch import StretchShard

_FLOATS = {"F16": "<f2", "BF16": "<i2", "F32": "<f4", "F64": "<f8"}
_INTEGERS = {
    **{"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"},
    **{"U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"},
}
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def shards(path: str, key: str | None) -> dict[str, StretchShard]:
    """The embeddings [N, D] or [L, N, D] under a key, or the only float matrix of the file."""
    tensors = _header(path)
    if key is None:
        found = [k for k, t in tensors.items() if t[0] in _FLOATS and len(t[1]) == 2]
        key = only(found, path, "2-D float tensor")
    name = f"{path}:{key}"
    kind, file = _file(path, key, tensors, _FLOATS, "embeddings are F16, BF16, F32 or F64")
    dtype = torch.bfloat16 if kind == "BF16" else None
    return {k: StretchShard(layer, n, dtype) for k, (n, layer) in file.layers(name).items()}


def labels(path: str, key: str | None) -> NpyFile:
    """The integers under a key, or the only integer tensor of the file."""
    tensors = _header(path)
    if key is None:
        found = [k for k, t in tensors.items() if t[0] in _INTEGERS]
        key = only(found, path, "integer tensor")
    return _file(path, key, tensors, _INTEGERS, "labels are integers")[1]


def _file(
    path: str, key: str, tensors: dict[str, _Tensor], takes: dict[str, str], taken: str
) -> tuple[str, NpyFile]:
    if key not in tensors:
        holds = ", ".join(list(tensors)[:5]) or "no tensors"
        raise DataError(f"{path}: no tensor {key!r}; the file holds {holds}")
    kind, shape, begin, end, seen = tensors[key]
    name, rows = f"{path}:{key}", shape[0] if shape else None
    if kind not in takes:
        raise DataError(f"{name}: {taken}, got {kind}", rows=rows)
    file = NpyFile(seen, shape, np.dtype(takes[kind]), False, begin)
    if end - begin != file.dtype.itemsize * math.prod(shape):
        raise DataError(
            f"{name}: the header is wrong: {kind} {list(shape)} does not take {end - begin} bytes"
        )
    return kind, file


class _Tensor(NamedTuple):
    """What the header says of a tensor."""

    kind: str
    shape: tuple[int, ...]
    begin: int  # in the file
    end: int
    seen: Fingerprint


def _header(path: str) -> dict[str, _Tensor]:
    with opened(path) as (handle, seen):
        length = int.from_bytes(handle.read(8), "little")
        if seen.size < 8 or length > min(seen.size - 8, _LONGEST_HEADER):
            raise DataError(f"{path}: not a .safetensors file, or its header is cut short")
        text = handle.read(length)
    with data_errors(path, "the .safetensors header cannot be read"):
        content = json.loads(text, object_pairs_hook=_without_twins)
        tensors = {
            key: _tensor(about, 8 + length, seen)
            for key, about in content.items()
            if key != "__metadata__"
        }
    for key, tensor in tensors.items():
        if tensor.end > seen.size:
            raise DataError(
                f"{path}:{key}: truncated: ends at byte {tensor.end}, the file has {seen.size}",
                rows=tensor.shape[0] if tensor.shape else None,
            )
    return tensors


def _without_twins(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON's own reader keeps the last of equal keys, other readers may keep the first."""
    found = dict(items)
    if len(found) < len(items):
        ((key, _),) = Counter(key for key, _ in items).most_common(1)
        raise ValueError(f"the key {key!r} is there twice")
    return found


def _tensor(about: Any, start: int, seen: Fingerprint) -> _Tensor:
    shape = tuple(map(_natural, about["shape"]))
    begin, end = map(_natural, about["data_offsets"])
    return _Tensor(str(about["dtype"]), shape, start + begin, start + end, seen)


def _natural(number: Any) -> int:
    if type(number) is not int:
        raise ValueError(f"{str(number)[:40]!r} is not an integer")
    if number < 0:
        raise ValueError("a negative length")
    return number
