"""Iterables of ``(embeddings, labels)``: a DataLoader with a model in front, say.

One that can be iterated again is read again for every pass. A one-shot iterator is written once, as
``.npy`` shards, and then read from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from sslkernels import _checks
from sslkernels._files import replaced
from sslkernels.data.arrays import check, is_array, tensor_of
from sslkernels.data.base import Chunk, ShardSource, Source
from sslkernels.data.errors import DataError, data_errors
from sslkernels.data.files import Member
from sslkernels.data.shards import open_shards

_SPOOL_BYTES = 64 << 20  # of embeddings in memory before a shard is written


class StreamSource(Source):
    """An iterable that starts anew whenever it is iterated.

    Its chunks are its batches, on whatever device they come. ``rows``, ``dim`` and ``dtype`` are
    known once it has been read to its end; later readings must yield as many rows.
    """

    private = True

    def __init__(self, batches: Iterable[Any], name: str) -> None:
        self._batches = batches
        self._count: int | None = None  # of batches that hold rows
        self.name = name
        self.rows = self.dim = self.dtype = None
        self.labels = {}
        self.skipped = []

    def chunks(self, rows: int, first: int = 0) -> Iterator[Chunk]:
        start = count = 0
        kind: tuple[int, torch.dtype, tuple[str, ...]] | None = None
        for i, batch in enumerate(self._batches):
            where = f"{self.name}: batch {i} (from row {start})"
            z, labels = _pair(batch, where)
            if not len(z):
                continue
            found = (z.shape[1], z.dtype, tuple(labels))
            if kind is None:
                kind = found
            elif found != kind:
                raise DataError(f"{where}: {_kind(found)}, earlier batches {_kind(kind)}")
            if self.rows is not None and start + len(z) > self.rows:
                raise self._changed(f"more than {self.rows}")
            if count >= first:
                yield Chunk(start, z, labels)
            start += len(z)
            count += 1
        if kind is None:
            raise DataError(f"{self.name}: the iterable yields no rows")
        if self.rows is not None and start != self.rows:
            raise self._changed(str(start))
        self.rows, self._count = start, count
        self.dim, self.dtype = kind[:2]

    def _changed(self, rows: str) -> DataError:
        return DataError(
            f"{self.name}: {rows} rows in a later reading, {self.rows} in the first; every pass "
            "needs the same rows in the same order (shuffle=False, drop_last=False)"
        )

    def num_chunks(self, rows: int) -> int | None:
        return self._count

    def part(self, rank: int, world: int, rows: int) -> Source:
        if world == 1:
            return self
        raise DataError(
            f"{self.name}: an iterable cannot be shared by {world} processes; write it to shards "
            "with spool=FOLDER first"
        )

    def identity(self) -> dict[str, Any]:
        return {"kind": "stream", "type": type(self._batches).__name__}

    def locate(self, row: int) -> str:
        return f"{self.name}: row {row}"


def open_stream(batches: Iterable[Any], name: str, spool: str | os.PathLike[str] | None) -> Source:
    """The batches as a source; those of a one-shot iterator are kept in ``spool``/``name``."""
    # A DataLoader is not asked for an iterator just to look at it: that would start its workers.
    if not isinstance(batches, Iterator) or iter(batches) is not batches:
        return StreamSource(batches, name)
    if spool is None:
        raise DataError(
            f"{name}: {type(batches).__name__} can be read only once, but several passes are "
            "needed: pass an iterable that starts anew (an object with __iter__, such as a "
            "DataLoader), or spool=FOLDER to keep the rows there"
        )
    return _spooled(StreamSource(batches, name), os.path.join(spool, _file_name(name)))


def _spooled(stream: StreamSource, folder: str) -> ShardSource:
    """Write ``embeddings/embeddings_0.npy``, ... and ``labels/NAME/labels_0.npy``, ... ."""
    if os.path.isdir(folder) and os.listdir(folder):
        raise DataError(
            f"{folder}: spool: expected a new or empty folder; to use rows kept earlier, pass "
            f"{os.path.join(folder, 'embeddings')} in place of the iterator"
        )
    paths: list[str] = []
    held: list[Chunk] = []
    labels: dict[str, list[np.ndarray]] = {}

    def write() -> None:
        number = len(paths)
        z = torch.cat([_writable(chunk.z) for chunk in held])
        for key in held[0].labels or {}:
            part = torch.cat([chunk.labels[key].cpu() for chunk in held if chunk.labels]).numpy()
            labels.setdefault(key, []).append(part)
            _save(os.path.join(folder, "labels", _file_name(key)), f"labels_{number}.npy", part)
        paths.append(
            _save(os.path.join(folder, "embeddings"), f"embeddings_{number}.npy", z.numpy())
        )
        held.clear()

    waiting = 0
    for chunk in stream.chunks(1):
        held.append(chunk)
        waiting += chunk.z.nbytes
        if waiting >= _SPOOL_BYTES:
            write()
            waiting = 0
    if held:
        write()
    members = [Member(path, number) for number, path in enumerate(paths)]
    source = open_shards(members, None, stream.name, skip_bad=False)
    source.private = True
    source.labels = {key: np.concatenate(parts) for key, parts in labels.items()}
    return source


def _save(folder: str, name: str, array: np.ndarray) -> str:
    """Write as a whole: no half file ever has the name of a shard."""
    path = os.path.join(folder, name)
    with data_errors(path, "cannot be written"):
        os.makedirs(folder, exist_ok=True)
        with replaced(path, "wb") as file:
            np.save(file, array, allow_pickle=False)
    return path


def _writable(z: torch.Tensor) -> torch.Tensor:
    """On the CPU, in a dtype that .npy has: bfloat16 as float32, which holds it exactly."""
    return z.to("cpu", torch.float32 if z.dtype == torch.bfloat16 else z.dtype)


def _file_name(key: str) -> str:
    if not key or key.startswith(".") or "/" in key or "\0" in key:
        raise DataError(f"spool: the name {key!r} cannot be that of a folder")
    return key


def _pair(batch: Any, where: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """``(embeddings [n, D], {name: labels int64 [n]})`` of one batch."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        got = f"{len(batch)} items" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise DataError(f"{where}: expected pairs (embeddings, labels), got {got}")
    z = tensor_of(batch[0], f"{where}: embeddings")
    if z.ndim == 2 and not len(z):
        return z, {}
    check(z, where)
    if isinstance(batch[1], Mapping):
        given = {str(key): _labels(value, where, str(key)) for key, value in batch[1].items()}
    else:
        labels = _labels(batch[1], where, "labels")
        if labels.ndim == 2:
            given = {f"labels[{k}]": row for k, row in enumerate(labels)}
        else:
            given = {"labels": labels}
    for key, labels in given.items():
        if labels.shape != (len(z),):
            raise DataError(
                f"{where}: {key} of shape {list(labels.shape)} for {len(z)} rows of embeddings"
            )
    try:
        return z, {key: _checks.as_int64(labels, key) for key, labels in given.items()}
    except ValueError as error:  # of uint64, past int64
        raise DataError(f"{where}: {error}") from None


def _labels(value: Any, where: str, key: str) -> torch.Tensor:
    labels = tensor_of(value if is_array(value) else np.asarray(value), f"{where}: {key}")
    if labels.dtype not in _checks.INT_DTYPES:
        raise DataError(f"{where}: {key} are integers, got {str(labels.dtype)[6:]}")
    return labels


def _kind(found: tuple[int, torch.dtype, tuple[str, ...]]) -> str:
    dim, dtype, names = found
    return f"{dim} columns of {str(dtype)[6:]} with {', '.join(names) or 'no labels'}"
