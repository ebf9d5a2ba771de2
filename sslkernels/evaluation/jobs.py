"""What is to be read: sources and labels opened, checked and matched before any row is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sslkernels import _checks
from sslkernels.data import DataError, Source, open_labels, open_sources
from sslkernels.evaluation.labelings import Labeling, digest, labelings
from sslkernels.evaluation.settings import Settings

_ONLY = "labels"  # the name of a labeling that has none


@dataclass(frozen=True)
class Job:
    """One set of embeddings with its labelings."""

    train: Source
    test: Source | None
    view: Source | None
    labelings: Sequence[Labeling]

    @property
    def sources(self) -> list[Source]:
        return [s for s in (self.train, self.test, self.view) if s is not None]

    @property
    def private(self) -> bool:
        return any(source.private for source in self.sources)

    @property
    def streamed(self) -> bool:
        return any(source.rows is None for source in self.sources)

    @property
    def skipped(self) -> list[str]:
        return [line for source in self.sources for line in source.skipped]

    def chunk_rows(self, size: int, ranks: int) -> int:
        """Rows of at most about ``size`` bytes, so many that all ranks get as many chunks."""
        most = max(1, size // (self.train.row_bytes or 4096))
        if self.train.rows is None or self.train.private:
            return most
        share = -(-self.train.rows // ranks)
        return max(1, -(-share // -(-share // most)))

    def identity(self) -> dict[str, Any]:
        return {
            "sources": [source.identity() for source in self.sources],
            "labelings": digest(self.labelings),
        }


def open_jobs(given: Mapping[str, Any], settings: Settings, ranks: int) -> dict[str, Job]:
    """One job for every set of embeddings in ``z``, by name, on one of ``ranks``.

    Args:
        given: the arguments of ``evaluate``.
    """
    z_test, z_view = given["z_test"], given["z_view"]
    labels, labels_test = given["labels"], given["labels_test"]
    num_classes = given["num_classes"]
    if labels_test is not None and z_test is None:
        raise ValueError("labels_test: needs z_test, the rows they belong to")

    def sources(obj: Any, name: str) -> dict[str, Source]:
        return open_sources(obj, name=name, skip_bad=settings.skip_bad, spool=given["spool"])

    trains = sources(given["z"], "z")
    tests = {} if z_test is None else _matched(sources(z_test, "z_test"), trains, "z_test")
    views = {} if z_view is None else _matched(sources(z_view, "z_view"), trains, "z_view")
    jobs = {}
    for name, train in trains.items():
        test, view = tests.get(name), views.get(name)
        for what, other in (("z_test", test), ("z_view", view)):
            _same_columns(what, other, train)
        if view is not None and view.rows != train.rows:
            raise DataError(
                f"z_view: {view.rows} rows in {view.name}, {train.rows} in {train.name}"
            )
        on_train = _labels(labels, train, num_classes, settings)
        on_test: Mapping[str, Any] | Sequence[str] = {}
        if test is not None:
            on_test = _labels(labels_test, test, num_classes, settings)
            if not on_test:
                raise ValueError("z_test: needs labels_test, the labels of its rows")
        found = labelings(
            on_train,
            on_test,
            num_classes,
            given["superclasses"] or {},
            settings.ignore_index,
            dim=train.dim,
            whole=ranks == 1 or not train.private,
            words=lambda what, name: _words(what, name, given[what]),
        )
        jobs[name] = Job(train, test, view, found)
    return jobs


def _labels(
    labels: Any, source: Source, num_classes: Any, settings: Settings
) -> Mapping[str, Any] | Sequence[str]:
    """Labels by name, given or found beside the data, or the names of those a stream brings."""
    if labels is not None or source.rows is not None:
        ignore, skip_bad = settings.ignore_index, settings.skip_bad
        return open_labels(labels, source, name=_ONLY, ignore_index=ignore, skip_bad=skip_bad)
    if num_classes is None:
        return []
    if isinstance(num_classes, Mapping):
        return list(num_classes)
    if isinstance(num_classes, Sequence):
        return [f"{_ONLY}[{k}]" for k in range(len(num_classes))]
    return [_ONLY]


def _words(what: str, name: str, given: Any) -> str:
    """What messages call labels: the path that they were given by, or the argument."""
    path = given.get(name) if isinstance(given, Mapping) else given
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else f"{what} {name!r}"


def _matched(
    others: dict[str, Source], trains: Mapping[str, Source], what: str
) -> dict[str, Source]:
    """Test rows or views for every set of training rows."""
    if set(others) != set(trains):
        raise ValueError(
            f"{what}: expected the same sets of embeddings as z, {_listed(trains)}; "
            f"got {_listed(others)}"
        )
    return others


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names)) if list(names) != [""] else "a single one"


def _same_columns(what: str, other: Source | None, train: Source) -> None:
    if other is not None and None not in (other.dim, train.dim) and other.dim != train.dim:
        raise DataError(f"{what}: {other.dim} columns in {other.name}, {train.dim} in {train.name}")


def device_of(device: torch.device | str | None, z: Any) -> torch.device:
    """Where to measure: as asked, where ``z`` is, or on the CPU."""
    if device is not None:
        return torch.device(device)
    first = next(iter(z.values()), None) if isinstance(z, Mapping) else z
    return first.device if isinstance(first, torch.Tensor) else torch.device("cpu")


def hashed(arrays: Sequence[Any]) -> str:
    """A hash of the values of some arrays, None among them."""
    total = hashlib.blake2b(digest_size=16)
    for array in arrays:
        if array is not None:
            values = _checks.as_tensor(array, "weight").detach().cpu().double()
            total.update(str(list(values.shape)).encode() + values.numpy().tobytes())
    return total.hexdigest()
