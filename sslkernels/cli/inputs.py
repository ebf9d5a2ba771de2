"""What ``sslkernels report`` is given, by name: paths, then the sources behind them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sslkernels.cli import named
from sslkernels.cli.console import OptionError
from sslkernels.cli.options import FLAGS
from sslkernels.data import DataError, Source, open_sources
from sslkernels.data.npy import NpyFile

_UNNAMED = "labels"

# How errors of evaluate() call what is wrong, and how its user here does.
_OPTIONS = {
    "labels": "--labels",
    "superclasses": "--superclasses",
    "z_test": "--test",
    "labels_test": "--test-labels",
    "z_view": "--view",
    "weight": "--weights",
    "bias": "--bias",
    **FLAGS,
}


@dataclass(frozen=True)
class Inputs:
    """Paths by name, of embeddings and of labelings, from ``[NAME=]PATH`` values."""

    train: dict[str, str]
    test: dict[str, str]
    view: dict[str, str]
    labels: dict[str, str]
    superclasses: dict[str, str]
    test_labels: dict[str, str]
    weights: dict[str, str]
    bias: dict[str, str]

    @classmethod
    def named(cls, train: Sequence[str], **given: Sequence[str] | None) -> Inputs:
        """From the values of ``TRAIN`` and of the options by name.

        Raises:
            OptionError: names that do not go together.
        """
        trains = named.embeddings(train)
        unnamed = {"labels": _UNNAMED, "test_labels": _UNNAMED, "superclasses": "superclasses"}
        paths = {
            name: named.matched(f"--{name}", values or (), list(trains))
            if name in ("test", "view")
            else named.by_name(f"--{name.replace('_', '-')}", values or (), unnamed.get(name, ""))
            for name, values in given.items()
        }
        if list(paths["test_labels"]) == [_UNNAMED] and len(paths["labels"]) == 1:
            paths["test_labels"] = {next(iter(paths["labels"])): paths["test_labels"][_UNNAMED]}
        if paths["test_labels"] and not paths["test"]:
            raise OptionError("--test-labels: needs --test TEST, the embeddings they label")
        return cls(trains, **paths)

    def open(self, skip_bad: bool) -> Opened:
        """Open the embeddings; their headers are read, no row is.

        Raises:
            DataError: a file cannot be used.
        """
        train, test, view = (
            open_sources(paths, skip_bad=skip_bad) if paths else {}
            for paths in (self.train, self.test, self.view)
        )
        for source in test.values():
            if not self.test_labels and not source.labels:
                raise OptionError(
                    f"--test {source.name}: needs --test-labels FILE, the labels of its rows"
                )
        return Opened(self, {"train": train, "test": test, "view": view})


@dataclass(frozen=True)
class Opened:
    """Sources by role (train, test, view) and name."""

    given: Inputs
    sources: dict[str, dict[str, Source]]

    def arguments(self) -> dict[str, Any]:
        """What :func:`sslkernels.evaluate` takes.

        Raises:
            DataError: weights or superclasses cannot be read.
        """
        return {
            "z": self.sources["train"],
            "labels": self.given.labels or None,
            "superclasses": {
                name: _array(path, "superclasses") for name, path in self.given.superclasses.items()
            },
            "z_test": self.sources["test"] or None,
            "labels_test": self.given.test_labels or None,
            "z_view": self.sources["view"] or None,
            "weight": _arrays(self.given.weights),
            "bias": _arrays(self.given.bias),
        }

    def described(self) -> dict[str, Any]:
        """The files behind the numbers, for the report."""
        given = self.given
        return {
            "labels": {
                "train": given.labels,
                "superclasses": given.superclasses,
                "test": given.test_labels,
            },
            "classifiers": {"weights": given.weights, "bias": given.bias},
            "embeddings": {
                name: {
                    role: _described(found[name])
                    for role, found in self.sources.items()
                    if name in found
                }
                for name in self.sources["train"]
            },
        }


def _described(source: Source) -> dict[str, Any]:
    return {
        "path": source.name,
        "shape": [source.rows, source.dim],
        "dtype": str(source.dtype).removeprefix("torch."),
    }


def _arrays(paths: Mapping[str, str]) -> Any:
    """Arrays by labeling; a bare one without a name; None of none."""
    arrays = {name: _array(path, "weights") for name, path in paths.items()}
    return arrays[""] if list(arrays) == [""] else arrays or None


def _array(path: str, what: str) -> np.ndarray:
    file = NpyFile.open(path)
    if not file.shape or 0 in file.shape:
        raise DataError(f"{path}: holds no {what}: shape {list(file.shape)}")
    (rows,) = file.read([0, file.shape[0]])
    return np.array(rows)


@contextlib.contextmanager
def arguments_as_options() -> Iterator[None]:
    """Errors in an argument of :func:`sslkernels.evaluate` as errors in the option behind it."""
    try:
        yield
    except (DataError, ValueError, TypeError) as error:
        name, _, reason = str(error).partition(":")
        if name in _OPTIONS:
            raise OptionError(f"{_OPTIONS[name]}:{reason}") from error
        if isinstance(error, DataError) and "skip_bad" in str(error):
            raise DataError(str(error).replace("skip_bad", "--skip-bad")) from error
        raise
