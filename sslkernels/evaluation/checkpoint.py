"""Progress of an evaluation in one file, so that an interrupted run resumes.

The file holds the results of finished sources, and of the current source the sums of every stage
with the number of chunks in them. It is replaced as a whole: written under another name, flushed to
the disk, renamed. The sums are restored to the bit and chunks are cut at the same rows, so a
resumed run has the results of an uninterrupted one.

Each of several ranks keeps a file of its own, with its sums from before they are merged over ranks:
the merge is repeated on resuming, so ranks may have been interrupted at different places.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslkernels._files import replaced
from sslkernels.data import DataError
from sslkernels.data.errors import data_errors
from sslkernels.evaluation.ranks import Ranks
from sslkernels.evaluation.result import EmbeddingsResult, packed, unpacked

_VERSION = 3


def path_of_rank(path: str | os.PathLike[str], ranks: Ranks) -> Path:
    """The file of one rank; ``path`` itself for one process."""
    suffix = f".{ranks.rank}-of-{ranks.size}" if ranks.size > 1 else ""
    return Path(f"{os.fspath(path)}{suffix}")


@dataclass
class Stage:
    """The sums of the first ``chunks`` chunks of one reading, and what was noted on the way."""

    chunks: int = 0
    rows: int = 0  # bad ones included
    bad: int = 0
    first: list[str] = field(default_factory=list)  # where the first bad rows are
    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    def notes(self) -> dict[str, Any]:
        """All but the sums, as JSON."""
        return {"chunks": self.chunks, "rows": self.rows, "bad": self.bad, "first": self.first}


class Checkpoint:
    """Stages by name and results by source; a file behind them, or none.

    Args:
        path: the file; None keeps nothing.
        run: what makes this run this run, JSON-able. A file of another run is refused.
        every: seconds between two writings of the file.

    Raises:
        DataError: the file is not a checkpoint of this run.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, run: Mapping[str, Any], every: float
    ) -> None:
        self._path = None if path is None else Path(path)
        self._run = json.loads(json.dumps(run))
        self._every = every
        self._saved = time.monotonic()
        self.results: dict[str, Any] = {}
        self.stages: dict[str, Stage] = {}
        self._source: str | None = None  # that the stages are of
        if self._path is not None:
            if self._path.exists():
                self._load()
            else:
                self._write()  # a file that cannot be written is better known now

    def begin(self, source: str) -> None:
        """Turn to a source; stages of another are done with.

        A rank may have been stopped in the next source while others still finished the last.
        """
        if source != self._source:
            self._source, self.stages = source, {}

    def note(self, name: str, reached: Callable[[], Stage]) -> None:
        """Keep the stage that was reached, if it is time again."""
        if self._path is not None and time.monotonic() - self._saved >= self._every:
            self.keep(name, reached())

    def keep(self, name: str, stage: Stage) -> None:
        """Keep a stage and write."""
        if self._path is not None:
            self.stages[name] = stage
            self._write()

    def finish(self, source: str, result: EmbeddingsResult) -> None:
        """Keep the result of a source; its stages are done with."""
        if self._path is not None:
            self.results[source] = packed(result)
            self.stages = {}
            self._write()

    def result(self, source: str) -> EmbeddingsResult:
        """That of a source which is finished."""
        return unpacked(self.results[source])

    @property
    def active(self) -> bool:
        return self._path is not None

    def _write(self) -> None:
        if self._path is None:
            return
        head = {
            "format": "sslkernels checkpoint",
            "version": _VERSION,
            "run": self._run,
            "results": self.results,
            "source": self._source,
            "stages": {name: stage.notes() for name, stage in self.stages.items()},
        }
        arrays = {
            f"{name}:{key}": tensor.cpu().numpy()
            for name, stage in self.stages.items()
            for key, tensor in stage.sums.items()
        }
        arrays["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
        with (
            data_errors(f"checkpoint {self._path}", "cannot be written"),
            replaced(self._path, "wb") as file,
        ):
            np.savez(file, digest=_digest(arrays), **arrays)  # type: ignore[arg-type]
        self._saved = time.monotonic()

    def _load(self) -> None:
        assert self._path is not None
        with data_errors(f"checkpoint {self._path}", "not a checkpoint of this version"):
            if not self._path.is_file():
                raise ValueError("no regular file")
            found = np.load(self._path, allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise ValueError("a single array")
            with found as file:
                arrays = {key: file[key] for key in file.files}
            if not np.array_equal(arrays.pop("digest"), _digest(arrays)):
                raise ValueError("damaged")
            head = json.loads(arrays.pop("head").tobytes())
            if head["version"] != _VERSION:
                raise ValueError(f"version {head['version']}")
            differing = [key for key in self._run if head["run"].get(key) != self._run[key]]
            if differing:
                raise DataError(
                    f"checkpoint {self._path}: of another run, its {', '.join(differing)} differ; "
                    "take another file, or remove it to start anew"
                )
            self.results, self._source = dict(head["results"]), head["source"]
            for name, notes in head["stages"].items():
                sums = {
                    key[len(name) + 1 :]: torch.from_numpy(value)
                    for key, value in arrays.items()
                    if key.startswith(f"{name}:")
                }
                self.stages[name] = Stage(**notes, sums=sums)


def _digest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """What changes with any of the arrays: a file that something has written to is not resumed."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {array.shape} ".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return np.frombuffer(total.digest(), dtype=np.uint8)
