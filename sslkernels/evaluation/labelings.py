"""The labelings of one evaluation: their classes, which of them are coarser forms of others, and
the classes of a chunk of rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sslkernels import _checks
from sslkernels.data import DataError

_FEW = 4096  # rows


@dataclass(frozen=True)
class Labeling:
    """One set of targets for the rows of a source.

    ``train`` is None when the labels come with the chunks of a stream. ``parents`` [C of the finer
    labeling] makes this one a coarser form of ``finer``: its moments follow from those. So do its
    labels in a stream if it is ``derived``, which brings none of its own. Unless ``whole``, other
    ranks have rows of which nothing is known here.
    """

    name: str
    num_classes: int
    train: np.ndarray | None  # int64 [N]
    test: np.ndarray | None = None  # int64 [N_test]
    tested: bool = False
    finer: int | None = None  # position among the labelings
    parents: np.ndarray | None = field(default=None, repr=False)  # int64 [C of finer]
    derived: bool = False
    whole: bool = True


def labelings(
    train: Mapping[str, np.ndarray] | Sequence[str],
    test: Mapping[str, np.ndarray] | Sequence[str],
    num_classes: Any,
    superclasses: Mapping[str, Any],
    ignore_index: int,
    *,
    dim: int | None = None,
    whole: bool = True,
    words: Callable[[str, str], str] = lambda what, name: f"{what} {name!r}",
) -> list[Labeling]:
    """Labelings from the labels of files and arrays, or from the names that a stream carries.

    Args:
        train, test: labels int64 [N] by name, or the names alone for a stream.
        num_classes: None, an int for all, a sequence in the order of ``train``, or a mapping.
        superclasses: by name the superclass of each class of the first labeling.
        ignore_index: the label of rows to be skipped.
        dim: columns of the embeddings, if known: class means must fit in memory.
        whole: these are the labels of all rows, not only of one rank's.
        words: what messages call ``("labels" or "labels_test", name)``.

    Raises:
        ValueError: ``num_classes`` does not go with the labelings, or is needed.
        DataError: a label is out of range or absurdly large, or nothing is labelled.
    """
    for name in test:
        if name not in train:
            given = ", ".join(map(repr, train)) or "no labels"
            raise DataError(f"labels_test: no labeling {name!r}; the training rows have {given}")
    sizes = _sizes(list(train), num_classes)
    result: list[Labeling] = []
    for name in train:
        on_train = train[name] if isinstance(train, Mapping) else None
        on_test = test.get(name) if isinstance(test, Mapping) else None
        size = sizes.get(name)
        where = words("labels", name)
        if on_train is not None:
            size = _size(where, on_train, on_test, size, ignore_index)
        elif size is None:
            raise ValueError(f"num_classes: needed for labeling {name!r} of a stream")
        _fits_memory(where, size, dim)
        if on_train is not None:
            _in_range(where, on_train, size, ignore_index)
        if on_test is not None:
            _in_range(words("labels_test", name), on_test, size, ignore_index)
        labels = Labeling(name, size, on_train, on_test, name in test, whole=whole)
        result.append(_as_coarser(labels, result, ignore_index))
    for name, parents in superclasses.items():
        result.append(_superclasses(name, parents, result, ignore_index))
    return result


def _superclasses(
    name: str, parents: Any, known: Sequence[Labeling], ignore_index: int
) -> Labeling:
    if not known:
        raise ValueError("superclasses: needs labels, the first of which they merge")
    if any(name == labels.name for labels in known):
        raise ValueError(f"superclasses: there is a labeling {name!r} already")
    first = known[0]
    given = parents if isinstance(parents, (torch.Tensor, np.ndarray)) else np.asarray(parents)
    p = _checks.as_tensor(given, f"superclasses: {name!r}").cpu()
    if p.dtype not in _checks.INT_DTYPES or p.shape != (first.num_classes,):
        raise ValueError(
            f"superclasses: {name!r}: expected {first.num_classes} integers, one for each class of "
            f"{first.name!r}, got shape {list(p.shape)} of {str(p.dtype)[6:]}"
        )
    above = _checks.as_int64(p, f"superclasses: {name!r}").numpy()
    if above.min() < 0:
        raise ValueError(f"superclasses: {name!r}: expected integers from 0, got {above.min()}")

    def merged(labels: np.ndarray | None) -> np.ndarray | None:
        if labels is None:
            return None
        used = labels != ignore_index
        return np.where(used, above[np.where(used, labels, 0)], ignore_index)

    train, test = merged(first.train), merged(first.test)
    size = int(above.max()) + 1
    return Labeling(
        name, size, train, test, first.tested, 0, above, derived=True, whole=first.whole
    )


def _sizes(names: list[str], num_classes: Any) -> dict[str, int]:
    if num_classes is None:
        return {}
    if isinstance(num_classes, Mapping):
        unknown = [name for name in num_classes if name not in names]
        if unknown:
            raise ValueError(f"num_classes: no labeling {unknown[0]!r}; there are {names}")
        items = dict(num_classes)
    elif isinstance(num_classes, Sequence):
        if len(num_classes) != len(names):
            raise ValueError(
                f"num_classes: expected {len(names)} ints, one per labeling, got {len(num_classes)}"
            )
        items = dict(zip(names, num_classes, strict=True))
    else:
        items = dict.fromkeys(names, num_classes)
    return {name: _checks.positive_int(size, "num_classes") for name, size in items.items()}


def _size(
    where: str, train: np.ndarray, test: np.ndarray | None, size: int | None, ignore_index: int
) -> int:
    """The number of classes; by default the largest label + 1."""
    largest = int(train.max(initial=-1, where=train != ignore_index))
    if largest < 0:
        raise DataError(f"{where}: every label is {ignore_index}: nothing to measure")
    if size is not None:
        return size
    if test is not None:
        largest = max(largest, int(test.max(initial=-1, where=test != ignore_index)))
    return largest + 1


def _fits_memory(where: str, size: int, dim: int | None) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = size * (dim or 1) * 8
    if needed > memory // 4:
        raise DataError(
            f"{where}: labels up to {size - 1} make {size} class means of "
            f"{needed / 2**30:.0f} GiB; number the classes 0, 1, 2, ..."
        )


def _in_range(where: str, labels: np.ndarray, size: int, ignore_index: int) -> None:
    bad = (labels != ignore_index) & ((labels < 0) | (labels >= size))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{where}: row {row} holds {labels[row]}: expected 0 to {size - 1}, "
            f"or {ignore_index} for rows to skip"
        )


def _as_coarser(labels: Labeling, earlier: list[Labeling], ignore_index: int) -> Labeling:
    """``labels`` as a coarser form of an earlier labeling, where each of its classes is a union of
    classes of that one."""
    if labels.train is None or not labels.whole:
        return labels
    for position, finer in enumerate(earlier):
        if finer.finer is not None or finer.num_classes < labels.num_classes:
            continue
        parents = _parents(finer, labels, ignore_index)
        if parents is not None:
            return Labeling(
                labels.name,
                labels.num_classes,
                labels.train,
                labels.test,
                labels.tested,
                position,
                parents,
            )
    return labels


def _parents(fine: Labeling, coarse: Labeling, ignore_index: int) -> np.ndarray | None:
    """The coarse class of each fine class, if the fine label of a row decides its coarse one."""
    a, b = fine.train, coarse.train
    assert a is not None and b is not None
    used = a != ignore_index
    if not np.array_equal(used, b != ignore_index):
        return None
    a, b = a[used], b[used]
    parents = np.zeros(fine.num_classes, np.int64)  # of classes without rows: they bring nothing
    for rows in (slice(_FEW), slice(None)):  # most labelings that cross show it at once
        parents[a[rows]] = b[rows]
        if not np.array_equal(parents[a[rows]], b[rows]):
            return None
    return parents


def digest(labels: Sequence[Labeling]) -> list[dict[str, Any]]:
    """What a resumed run compares: names, classes and a hash of every label."""

    def hashed(values: np.ndarray | None) -> str | None:
        if values is None:
            return None
        return hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=16).hexdigest()

    return [
        {
            "name": item.name,
            "num_classes": item.num_classes,
            "train": hashed(item.train),
            "test": hashed(item.test),
            "parents": hashed(item.parents),
        }
        for item in labels
    ]
