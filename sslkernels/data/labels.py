"""Opening class labels and fitting them to the rows of a source."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sslkernels.data.arrays import is_array, tensor_of
from sslkernels.data.base import Shard, ShardSource, Source
from sslkernels.data.errors import DataError
from sslkernels.data.files import Member, label_files, numbered, split_key
from sslkernels.data.formats import HeldLabels, LabelArray, integers, labels_in
from sslkernels.data.integers import checked_labels


def open_labels(
    obj: Any,
    source: Source,
    *,
    name: str = "labels",
    ignore_index: int = -100,
    skip_bad: bool = False,
) -> dict[str, np.ndarray]:
    """Labels as named int64 arrays [rows of the source], each ``ignore_index`` or not negative.

    Shards of labels belong to the shards of embeddings that have their number (or are the same
    files); otherwise they are one array for all rows, as one file is.

    Args:
        obj: an array, tensor or list of integers [N] or [K, N], a path, a dict of these, or None
            for the labels found beside the data.
        source: the embeddings they belong to.
        name: the name of [N]; [K, N] makes ``name[0]`` to ``name[K-1]``.
        ignore_index: the label of rows to be skipped.
        skip_bad: of a shard of labels that cannot be used, make all ``ignore_index`` and list it
            in ``source.skipped``.

    Raises:
        DataError: labels cannot be used; the message names the file and the row.
    """
    if obj is None:
        return {
            key: checked_labels([values], len(values), f"{source.name}: {key}", ignore_index)
            for key, values in source.labels.items()
        }
    if source.rows is None:
        raise DataError(f"{name}: {source.name} is a stream, which yields labels of its own")
    whole = source.whole if isinstance(source, ShardSource) else source
    found = _open(obj, whole, name, ignore_index, skip_bad)
    if whole is source:
        return found
    rows = slice(source.offset, source.offset + source.rows)
    return {key: values[rows] for key, values in found.items()}


def _open(
    obj: Any, source: Source, name: str, ignore: int, skip_bad: bool
) -> dict[str, np.ndarray]:
    if isinstance(obj, Mapping):
        found: dict[str, np.ndarray] = {}
        for key, value in obj.items():
            more = _open(value, source, str(key), ignore, skip_bad)
            if twice := found.keys() & more.keys():
                raise DataError(f"labels: the name {min(twice)!r} is given twice")
            found.update(more)
        return found
    if _is_path(obj):
        path, key = split_key(os.fspath(obj))
        members = label_files(path, key)
        if members is None:
            return _of_all([labels_in(path, key)], source, name, os.fspath(obj), ignore)
        return _of_files(members, source, key, name, os.fspath(obj), ignore, skip_bad)
    if isinstance(obj, (list, tuple)) and obj and all(map(_is_path, obj)):
        members = numbered([os.fspath(each) for each in obj])
        return _of_files(members, source, None, name, name, ignore, skip_bad)
    array = tensor_of(obj, name).cpu().numpy() if is_array(obj) else _from_list(obj, name)
    held = integers(HeldLabels(array, name), array.dtype)
    return _of_all([held], source, name, name, ignore)


def _is_path(obj: Any) -> bool:
    return isinstance(obj, (str, os.PathLike))


def _of_files(
    members: Sequence[Member],
    source: Source,
    key: str | None,
    name: str,
    where: str,
    ignore: int,
    skip_bad: bool,
) -> dict[str, np.ndarray]:
    if isinstance(source, ShardSource) and (own := _pairs(members, source)) is not None:
        return _of_shards(members, own, source, key, name, where, ignore, skip_bad)
    return _of_all([labels_in(m.path, key) for m in members], source, name, where, ignore)


def _of_all(
    arrays: Sequence[LabelArray], source: Source, name: str, where: str, ignore: int
) -> dict[str, np.ndarray]:
    """Arrays of labels in a row, for all rows of the source and of the shards it left out."""
    rows = sum(array.shape[-1] for array in arrays)
    left_out = source.left_out if isinstance(source, ShardSource) else ()
    if lost := next((each for each in left_out if each.rows is None), None):
        raise DataError(
            f"{where}: one array of labels for all shards, but the rows of {lost.name}, which was "
            "left out, cannot be counted"
        )
    missing = sum(each.rows or 0 for each in left_out)
    if rows != (source.rows or 0) + missing:
        more = f" and the {missing} left out" if missing else ""
        raise DataError(f"{where}: {rows} labels for the {source.rows} rows of {source.name}{more}")
    found = _read([(array, array.shape[-1]) for array in arrays], name, ignore)
    if not missing:
        return found
    kept = np.ones(rows, dtype=bool)
    gone = 0
    for each in left_out:
        kept[each.before + gone :][: each.rows] = False
        gone += each.rows or 0
    return {key: values[kept] for key, values in found.items()}


def _pairs(members: Sequence[Member], source: ShardSource) -> dict[str, Member] | None:
    """``{path of a shard: its labels}``, or None where they are not told apart by shard."""
    shards = [(shard.path, shard.number) for shard in source.shards]
    shards += [(each.name, each.number) for each in source.left_out]
    files = {os.path.realpath(member.path): member for member in members}
    same = {path: files.get(os.path.realpath(path)) for path, _ in shards if path}
    if any(same.values()):
        return {path: member for path, member in same.items() if member}
    if any(number is None for _, number in (*shards, *members)):
        return None
    own = {member.number: member for member in members}
    return {path: own[number] for path, number in shards if path and number in own}


def _of_shards(
    members: Sequence[Member],
    own: Mapping[str, Member],
    source: ShardSource,
    key: str | None,
    name: str,
    where: str,
    ignore: int,
    skip_bad: bool,
) -> dict[str, np.ndarray]:
    """Each shard's own labels; all headers are read before any label is."""
    used = set(own.values())
    arrays: list[tuple[LabelArray | None, int]] = []
    for shard in source.shards:
        array: LabelArray | None = None
        try:
            array = _of_shard(own.get(shard.path or ""), shard, key, where)
        except DataError as error:
            if not skip_bad:
                raise
            source.skipped.append(f"{error}; {shard.rows} rows have no label of {name}")
        arrays.append((array, shard.rows))
    for member in members:
        if member not in used:
            unused = f"{member.path}: no shard of {source.name} has its number"
            if not skip_bad:
                raise DataError(unused)
            source.skipped.append(unused)
    if not any(array for array, _ in arrays):
        raise DataError(f"{where}: no shard of labels can be used; {source.skipped[-1]}")
    return _read(arrays, name, ignore)


def _of_shard(member: Member | None, shard: Shard, key: str | None, where: str) -> LabelArray:
    if member is None:
        raise DataError(f"{where}: no shard of labels has the number of {shard.name}")
    array = labels_in(member.path, key)
    if array.shape[-1] != shard.rows:
        raise DataError(
            f"{array.name}: {array.shape[-1]} labels for the {shard.rows} rows of {shard.name}"
        )
    return array


def _read(
    arrays: Sequence[tuple[LabelArray | None, int]], name: str, ignore: int
) -> dict[str, np.ndarray]:
    """The labels of arrays one after another; ``ignore`` for the rows that have none."""
    given = [array for array, _ in arrays if array is not None]
    for array in given:
        if array.shape[:-1] != given[0].shape[:-1]:
            raise DataError(
                f"{array.name}: labels of shape {list(array.shape)}, but {given[0].name} has "
                f"{list(given[0].shape)}"
            )
    count = 1 if len(given[0].shape) == 1 else given[0].shape[0]
    names = [name] if len(given[0].shape) == 1 else [f"{name}[{k}]" for k in range(count)]
    total = np.empty((count, sum(rows for _, rows in arrays)), dtype=np.int64)
    start = 0
    for each, rows in arrays:
        part = total[:, start : start + rows]
        start += rows
        if each is None:
            part[:] = ignore
            continue
        values = each.read()
        for k, row in enumerate(values.reshape(count, rows)):
            at = each.name if values.ndim == 1 else f"{each.name}[{k}]"
            checked_labels([row], rows, at, ignore, out=part[k])
    return dict(zip(names, total, strict=True))


def _from_list(obj: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(obj)
    except ValueError as error:
        raise DataError(f"{name}: labels have shape [N] or [K, N]: {error}") from error
    if array.dtype.kind not in "iufb":
        raise DataError(f"{name}: cannot read labels from {type(obj).__name__}")
    return array
