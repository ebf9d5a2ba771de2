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
    """Paths by name: of embeddings, of labelings."""

    train: dict[str, str]
    test: dict[str, str]
    view: dict[str, str]
    labels: dict[str, str]
    superclasses: dict[str, str]
    test_labels: dict[str, str]
    weights: dict[str, str]
    bias: dict[str, str]

    @classmethod
    def named(
        cls,
        train: Sequence[str],
        labels: Sequence[str] | None,
        superclasses: Sequence[str] | None,
        test: Sequence[str] | None,
        test_labels: Sequence[str] | None,
        view: Sequence[str] | None,
        weights: Sequence[str] | None,
        bias: Sequence[str] | None,
    ) -> Inputs:
        """From ``[NAME=]PATH`` values.

        Raises:
            OptionError: names that do not go together.
        """
        trains = named.embeddings(train)
        on_train = named.by_name("--labels", labels or (), _UNNAMED)
        on_test = named.by_name("--test-labels", test_labels or (), _UNNAMED)
        if list(on_test) == [_UNNAMED] and len(on_train) == 1:
            on_test = {next(iter(on_train)): on_test[_UNNAMED]}
        if on_test and not test:
            raise OptionError("--test-labels: needs --test TEST, the embeddings they label")
        return cls(
            trains,
            named.matched("--test", test, list(trains)) if test else {},
            named.matched("--view", view, list(trains)) if view else {},
            on_train,
            named.by_name("--superclasses", superclasses or (), "superclasses"),
            on_test,
            named.by_name("--weights", weights or (), ""),
            named.by_name("--bias", bias or (), ""),
        )

    def open(self, skip_bad: bool) -> Opened:
        """Open the embeddings; their headers are read, no row is.

        Raises:
            DataError: a file cannot be used.
        """

        def sources(paths: dict[str, str]) -> dict[str, Source]:
            if not paths:
                return {}
            return open_sources(paths, skip_bad=skip_bad)

        test = sources(self.test)
        if not self.test_labels:
            for source in test.values():
                if not source.labels:
                    raise OptionError(
                        f"--test {source.name}: needs --test-labels FILE, the labels of its rows"
                    )
        return Opened(self, sources(self.train), test, sources(self.view))


@dataclass(frozen=True)
class Opened:
    """Sources by name."""

    given: Inputs
    train: dict[str, Source]
    test: dict[str, Source]
    view: dict[str, Source]

    def arguments(self) -> dict[str, Any]:
        """What :func:`sslkernels.evaluate` takes.

        Raises:
            DataError: weights or superclasses cannot be read.
        """
        return {
            "z": self.train,
            "labels": self.given.labels or None,
            "superclasses": {
                name: _array(path, "superclasses") for name, path in self.given.superclasses.items()
            },
            "z_test": self.test or None,
            "labels_test": self.given.test_labels or None,
            "z_view": self.view or None,
            "weight": _arrays(self.given.weights),
            "bias": _arrays(self.given.bias),
        }

    def described(self) -> dict[str, Any]:
        """The files behind the numbers, for the report."""
        roles = {"train": self.train, "test": self.test, "view": self.view}
        return {
            "labels": {
                "train": self.given.labels,
                "superclasses": self.given.superclasses,
                "test": self.given.test_labels,
            },
            "classifiers": {"weights": self.given.weights, "bias": self.given.bias},
            "embeddings": {
                name: {
                    role: _described(sources[name])
                    for role, sources in roles.items()
                    if name in sources
                }
                for name in self.train
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
