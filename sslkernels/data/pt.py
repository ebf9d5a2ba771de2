"""``.pt`` files: a tensor or a dict of tensors, nothing else is unpickled.

What ``torch.save`` writes is a zip archive without compression: a pickle that describes the
tensors, and a record of numbers for each storage. Rows are read from these records as from ``.npy``
files. ``torch.load`` would read every tensor of the file, or map it, and a map kills the process
when somebody cuts the file short.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from typing import BinaryIO

import numpy as np
import torch

from sslkernels.data.arrays import ArrayShard, layers
from sslkernels.data.base import Shard
from sslkernels.data.errors import DataError, data_errors
from sslkernels.data.files import Fingerprint, only, opened
from sslkernels.data.npy import NpyFile
from sslkernels.data.pt_pickle import MoreThanTensors, Stored, described
from sslkernels.data.stretch import StretchShard

_FLOATS = {torch.float16: "f2", torch.bfloat16: "i2", torch.float32: "f4", torch.float64: "f8"}
_INTEGERS = {
    **{torch.int8: "i1", torch.int16: "i2", torch.int32: "i4", torch.int64: "i8"},
    **{torch.uint8: "u1", torch.uint16: "u2", torch.uint32: "u4", torch.uint64: "u8"},
}
_LOCAL_HEADER = 30  # bytes in front of a zip record, before its name and its extra field


def shards(path: str, key: str | None) -> Mapping[str, Shard]:
    """The embeddings [N, D] or [L, N, D] under a key, or the only float matrix of the file."""
    archive = _Archive(path)
    key = archive.key(
        key, lambda t: t.dtype.is_floating_point and len(t.size) == 2, "2-D float tensor"
    )
    name = f"{path}:{key}" if key else path
    found, dtype = archive.find(
        key, name, _FLOATS, "embeddings are float16, bfloat16, float32 or float64"
    )
    if isinstance(found, NpyFile):
        return {k: StretchShard(layer, n, dtype) for k, (n, layer) in found.layers(name).items()}
    z = torch.from_numpy(found).view(dtype)
    return {k: _HeldShard(layer, n, archive.seen) for k, (n, layer) in layers(z, name).items()}


def labels(path: str, key: str | None) -> NpyFile | np.ndarray:
    """The integers under a key, or the only integer tensor of the file."""
    archive = _Archive(path)
    key = archive.key(key, lambda t: t.dtype in _INTEGERS, "integer tensor")
    return archive.find(key, f"{path}:{key}" if key else path, _INTEGERS, "labels are integers")[0]


class _HeldShard(ArrayShard):
    """Embeddings that were read as a whole."""

    def __init__(self, z: torch.Tensor, name: str, seen: Fingerprint) -> None:
        super().__init__(z, name)
        self._seen = seen

    def identity(self) -> dict[str, object]:
        return {**self._seen.identity(), "name": self.name, **super().identity()}


class _Archive:
    """The tensors of a file by name, ``""`` for one alone; none of their numbers are read."""

    def __init__(self, path: str) -> None:
        self._path = path
        with opened(path) as (handle, self.seen), data_errors(path):
            if not zipfile.is_zipfile(handle):
                raise ValueError("not a zip archive, as torch.save writes since torch 1.6")
            with zipfile.ZipFile(handle) as archive:
                infos = archive.infolist()
                self._records = {info.filename: info for info in infos}
                if len(self._records) < len(infos):
                    raise ValueError("two zip records of one name")
                if any(info.compress_type for info in infos):
                    raise ValueError("compressed; torch.save does not compress")
                name = next((name for name in self._records if name.endswith("/data.pkl")), None)
                if name is None:
                    raise ValueError("a zip archive, but not one of torch.save")
                self._root = name[: -len("data.pkl")]
                order = f"{self._root}byteorder"
                big = order in self._records and archive.read(order) == b"big"
                content = archive.read(name)
            self._byteorder = ">" if big else "<"
        with data_errors(path):
            try:
                self._tensors = described(content)
            except MoreThanTensors as error:
                raise DataError(
                    f"{path}: holds more than tensors ({error}); save the tensor, or a dict of "
                    "tensors, with torch.save"
                ) from error

    def key(self, given: str | None, will_do: Callable[[Stored], bool], what: str) -> str:
        """The key that was given, or the only one that will do."""
        if given is not None or list(self._tensors) == [""]:
            return given or ""
        found = [k for k, t in self._tensors.items() if isinstance(t, Stored) and will_do(t)]
        return only(found, self._path, what)

    def find(
        self, key: str, name: str, takes: Mapping[torch.dtype, str], taken: str
    ) -> tuple[NpyFile | np.ndarray, torch.dtype]:
        """Where a tensor lies in the file; its numbers if they do not lie in one stretch."""
        if key not in self._tensors:
            alone = list(self._tensors) == [""]
            holds = "one tensor, no dict" if alone else ", ".join(list(self._tensors)[:5])
            raise DataError(
                f"{self._path}: no tensor {key!r}; the file holds {holds or 'no tensors'}"
            )
        tensor = self._tensors[key]
        if not isinstance(tensor, Stored):
            raise DataError(f"{name}: expected a plain tensor with values, got {tensor}")
        if tensor.dtype not in takes:
            rows = tensor.size[0] if tensor.size else None
            raise DataError(f"{name}: {taken}, got {str(tensor.dtype)[6:]}", rows=rows)
        dtype = np.dtype(self._byteorder + takes[tensor.dtype])
        with opened(self._path, self.seen) as (handle, _), data_errors(self._path):
            start, length = self._numbers(handle, tensor.record)
        first = start + tensor.offset * dtype.itemsize
        if tensor.last * dtype.itemsize > length:
            raise DataError(f"{name}: the file is wrong: a tensor ends behind its numbers")
        plain = 0 in tensor.size or tensor.stride == _strides(tensor.size)
        transposed = len(tensor.size) == 2 and tensor.stride == _strides(tensor.size[::-1])[::-1]
        if plain or transposed:
            return NpyFile(self.seen, tensor.size, dtype, not plain, first), tensor.dtype
        span = NpyFile(self.seen, (tensor.last - tensor.offset,), dtype, False, first)
        (numbers,) = span.read([0, *span.shape])
        steps = [step * dtype.itemsize for step in tensor.stride]
        with data_errors(self._path):  # a size of any length, its strides 0
            return np.lib.stride_tricks.as_strided(numbers, tensor.size, steps), tensor.dtype

    def _numbers(self, handle: BinaryIO, record: str) -> tuple[int, int]:
        """Where in the file a record of numbers starts, and its length."""
        info = self._records[f"{self._root}data/{record}"]
        handle.seek(info.header_offset)
        header = handle.read(_LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise ValueError("a zip record without its header")
        more = sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        start = info.header_offset + _LOCAL_HEADER + more
        if start + info.file_size > self.seen.size:
            raise ValueError("truncated: a zip record ends behind the file")
        return start, info.file_size


def _strides(size: tuple[int, ...]) -> tuple[int, ...]:
    """Those of rows one after another, as torch counts them."""
    return tuple(math.prod(max(n, 1) for n in size[i + 1 :]) for i in range(len(size)))
