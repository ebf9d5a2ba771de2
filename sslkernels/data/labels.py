"""Opening class labels and fitting them to the rows of a source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from sslkernels.data.arrays import is_array, tensor_of
from sslkernels.data.base import ShardSource, Source
from sslkernels.data.errors import DataError
from sslkernels.data.integers import checked_labels
from sslkernels.data.npy import NpyFile


def open_labels(
    obj: Any,
    source: Source,
    *,
    name: str = "labels",
    ignore_index: int = -100,
    skip_bad: bool = False,
) -> dict[str, np.ndarray]:
    """Labels as named int64 arrays [rows of the source], each ``ignore_index`` or not negative.

    Args:
        obj: an array, tensor or list of integers [N] or [K, N], a path, or a dict of these.
        source: the embeddings they belong to.
        name: the name of [N]; [K, N] makes ``name[0]`` to ``name[K-1]``.
        ignore_index: the label of rows to be skipped.
        skip_bad: of a shard of labels that cannot be used, make all ``ignore_index`` and list it
            in ``source.skipped``.

    Raises:
        DataError: labels cannot be used; the message names the file and the row.
    """
    if isinstance(source, ShardSource) and source.whole is not source:
        found = open_labels(
            obj, source.whole, name=name, ignore_index=ignore_index, skip_bad=skip_bad
        )
        rows = slice(source.offset, source.offset + source.rows)
        return {key: values[rows] for key, values in found.items()}
    if isinstance(obj, Mapping):
        found = {}
        for key, value in obj.items():
            more = open_labels(
                value, source, name=str(key), ignore_index=ignore_index, skip_bad=skip_bad
            )
            if twice := found.keys() & more.keys():
                raise DataError(f"labels: the name {min(twice)!r} is given twice")
            found.update(more)
        return found
    if isinstance(obj, (str, os.PathLike)):
        array, where = _whole_npy(os.fspath(obj)), os.fspath(obj)
    elif is_array(obj):
        array, where = tensor_of(obj, name).cpu().numpy(), name
    else:
        array, where = _from_list(obj, name), name
    return _fit(array, source, name, where, ignore_index)


def _fit(
    array: np.ndarray, source: Source, name: str, where: str, ignore: int
) -> dict[str, np.ndarray]:
    if array.dtype.kind not in "iu":
        raise DataError(f"{where}: labels are integers, got {array.dtype}")
    if array.ndim not in (1, 2):
        raise DataError(f"{where}: labels have shape [N] or [K, N], got {list(array.shape)}")
    if source.rows is not None and array.shape[-1] != source.rows:
        raise DataError(
            f"{where}: {array.shape[-1]} labels for the {source.rows} rows of {source.name}"
        )
    if array.ndim == 1:
        return {name: checked_labels([array], len(array), where, ignore)}
    return {
        f"{name}[{k}]": checked_labels([row], len(row), f"{where}[{k}]", ignore)
        for k, row in enumerate(array)
    }


def _whole_npy(path: str) -> np.ndarray:
    file = NpyFile.open(path)
    parts = list(file.read([0, file.shape[0]])) if file.shape else []
    return parts[0] if parts else np.empty(file.shape, file.dtype)


def _from_list(obj: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(obj)
    except ValueError as error:
        raise DataError(f"{name}: labels have shape [N] or [K, N]: {error}") from error
    if array.size == 0:
        raise DataError(f"{name}: no labels")
    if array.dtype.kind not in "iufb":
        raise DataError(f"{name}: cannot read labels from {type(obj).__name__}")
    return array
