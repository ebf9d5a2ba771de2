"""What ``sslkernels report`` is given, by name: paths, then the sources behind them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sslkernels.cli import named as names
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


Paths = Mapping[str, dict[str, str]]  # by option, then by name
Sources = Mapping[str, dict[str, Source]]  # by role (train, test, view), then by name


def named(train: Sequence[str], **given: Sequence[str] | None) -> Paths:
    """The ``[NAME=]PATH`` values of ``TRAIN`` and of the options, by name.

    Raises:
        OptionError: names that do not go together.
    """
    trains = names.embeddings(train)
    unnamed = {"labels": _UNNAMED, "test_labels": _UNNAMED, "superclasses": "superclasses"}
    paths = {
        option: names.matched(f"--{option}", values or (), list(trains))
        if option in ("test", "view")
        else names.by_name(f"--{option.replace('_', '-')}", values or (), unnamed.get(option, ""))
        for option, values in given.items()
    }
    if list(paths["test_labels"]) == [_UNNAMED] and len(paths["labels"]) == 1:
        paths["test_labels"] = {next(iter(paths["labels"])): paths["test_labels"][_UNNAMED]}
    if paths["test_labels"] and not paths["test"]:
        raise OptionError("--test-labels: needs --test TEST, the embeddings they label")
    return {"train": trains, **paths}


def opened(paths: Paths, skip_bad: bool) -> Sources:
    """The embeddings; their headers are read, no row is.

    Raises:
        DataError: a file cannot be used.
    """
    sources = {
        role: open_sources(paths[role], skip_bad=skip_bad) if paths[role] else {}
        for role in ("train", "test", "view")
    }
    for source in sources["test"].values():
        if not paths["test_labels"] and not source.labels:
            raise OptionError(
                f"--test {source.name}: needs --test-labels FILE, the labels of its rows"
            )
    return sources


def arguments(paths: Paths, sources: Sources) -> dict[str, Any]:
    """What :func:`sslkernels.evaluate` takes.

    Raises:
        DataError: weights or superclasses cannot be read.
    """
    return {
        "z": sources["train"],
        "labels": paths["labels"] or None,
        "superclasses": {
            name: _array(path, "superclasses") for name, path in paths["superclasses"].items()
        },
        "z_test": sources["test"] or None,
        "labels_test": paths["test_labels"] or None,
        "z_view": sources["view"] or None,
        "weight": _arrays(paths["weights"]),
        "bias": _arrays(paths["bias"]),
    }


def described(paths: Paths, sources: Sources) -> dict[str, Any]:
    """The files behind the numbers, for the report."""
    return {
        "labels": {
            "train": paths["labels"],
            "superclasses": paths["superclasses"],
            "test": paths["test_labels"],
        },
        "classifiers": {"weights": paths["weights"], "bias": paths["bias"]},
        "embeddings": {
            name: {
                role: _described(found[name]) for role, found in sources.items() if name in found
            }
            for name in sources["train"]
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
