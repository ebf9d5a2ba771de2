"""The reader of each kind of file, by its suffix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from sslkernels.data import pt, safetensors
from sslkernels.data.base import Shard
from sslkernels.data.errors import DataError
from sslkernels.data.npy import NpyFile, open_layers
from sslkernels.data.parquet import LabelColumn, ParquetShard
from sslkernels.data.stretch import StretchShard


class LabelArray(Protocol):
    """Labels [N] or [K, N], of known shape, read when asked."""

    name: str
    shape: tuple[int, ...]

    def read(self) -> np.ndarray: ...


class HeldLabels:
    """Labels in memory."""

    def __init__(self, array: np.ndarray, name: str) -> None:
        self._array, self.name, self.shape = array, name, array.shape

    def read(self) -> np.ndarray:
        return self._array


class FileLabels:
    """Labels in one stretch of a file."""

    def __init__(self, file: NpyFile, name: str) -> None:
        self._file, self.name, self.shape = file, name, file.shape

    def read(self) -> np.ndarray:
        parts = list(self._file.read([0, self.shape[0]]))
        return parts[0] if parts else np.empty(self.shape, self._file.dtype)


def embeddings_in(path: str, key: str | None) -> Mapping[str, Shard]:
    """The embeddings of one file: ``{"": shard}``, or ``{"0": ...}`` of [L, N, D]."""
    kind = _kind(path)
    if kind == "safetensors":
        return safetensors.shards(path, key)
    if kind == "parquet":
        return {"": ParquetShard(path, key)}
    if kind == "pt":
        return pt.shards(path, key)
    _no_key(path, key)
    return {k: StretchShard(file, name) for k, (name, file) in open_layers(path).items()}


def labels_in(path: str, key: str | None) -> LabelArray:
    """The labels of one file: integers, or a DataError."""
    kind = _kind(path)
    if kind == "parquet":
        return LabelColumn(path, key)
    if kind == "safetensors":
        file = safetensors.labels(path, key)
        return integers(FileLabels(file, path if key is None else f"{path}:{key}"), file.dtype)
    if kind == "pt":
        found = pt.labels(path, key)
        name = path if key is None else f"{path}:{key}"
        if isinstance(found, NpyFile):
            return integers(FileLabels(found, name), found.dtype)
        return integers(HeldLabels(found, name), found.dtype)
    _no_key(path, key)
    file = NpyFile.open(path)
    return integers(FileLabels(file, path), file.dtype)


def integers(labels: LabelArray, dtype: np.dtype) -> LabelArray:
    """The labels, once their dtype and shape will do."""
    rows = labels.shape[-1] if labels.shape else None
    if dtype.kind not in "iu":
        raise DataError(f"{labels.name}: labels are integers, got {dtype}", rows=rows)
    if len(labels.shape) not in (1, 2):
        raise DataError(
            f"{labels.name}: labels have shape [N] or [K, N], got {list(labels.shape)}", rows=rows
        )
    return labels


def _kind(path: str) -> str:
    for kind, suffixes in {
        "safetensors": (".safetensors",),
        "parquet": (".parquet", ".pq"),
        "pt": (".pt", ".pth"),
    }.items():
        if path.endswith(suffixes):
            return kind
    return "npy"


def _no_key(path: str, key: str | None) -> None:
    if key is not None:
        raise DataError(f"{path}: a .npy file holds one array, not {key!r}")
