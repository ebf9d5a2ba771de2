"""The folder of a study: what each run has recorded, and the tidy table of all.

``DIR/runs/SEED-METHOD.jsonl`` holds the rows of a run, appended while it goes; ``SEED-METHOD.json``
beside it says that it is complete. ``DIR/study.json`` holds the settings from the first moment.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from sslkernels._files import replaced
from sslkernels.monitor import records
from sslkernels.study.settings import StudySettings

COLUMNS = (
    "seed", "method", "step", "epoch", "layer", "labeling", "split", "statistic", "value",
)  # fmt: skip

Row = dict[str, Any]


class Folder:
    """The files of a study in ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = path / "runs"

    def rows_of(self, seed: int, method: str) -> Path:
        return self.runs / f"{seed}-{method}.jsonl"

    def mark_of(self, seed: int, method: str) -> Path:
        return self.runs / f"{seed}-{method}.json"

    def settings(self) -> dict[str, Any] | None:
        """Those of the study that is in the folder; None where there is none.

        Raises:
            ValueError: ``study.json`` is not one of a study.
        """
        path = self.path / "study.json"
        if not path.exists():
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path}: is not the settings of a study") from error

    def done(self, seed: int, method: str) -> dict[str, Any] | None:
        """What a complete run says of itself."""
        mark = self.mark_of(seed, method)
        if not mark.exists():
            return None
        try:
            return dict(json.loads(mark.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{mark}: is not the mark of a run; remove it to repeat") from error

    def rows(self, settings: StudySettings) -> list[Row]:
        """Every row recorded so far, complete runs or not."""
        steps_per_epoch = self._steps_per_epoch(settings)
        found = []
        for seed, method in settings.runs():
            path = self.rows_of(seed, method)
            if not path.exists():
                continue
            for row in records.load(path):
                epoch = row.pop("step")
                row = {"step": epoch * steps_per_epoch, "epoch": epoch, **row}
                found.append({"seed": seed, "method": method, **row})
        return found

    def _steps_per_epoch(self, settings: StudySettings) -> int:
        from sslkernels.study.digits import TEST_ROWS

        return max(1, (1797 - TEST_ROWS) // settings.batch)


def write_csv(path: Path, rows: list[Row]) -> None:
    """The tidy table, replaced as a whole; a lost value is ``nan``."""
    with replaced(path) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class Table:
    """Looks values up in the rows of a study."""

    def __init__(self, rows: list[Row]) -> None:
        self._values: dict[tuple[Any, ...], float] = {}
        self._epochs: dict[tuple[int, str], set[int]] = {}
        for row in rows:
            key = (row["method"], row["layer"], row["labeling"], row["split"], row["statistic"])
            self._values[(*key, row["seed"], row["epoch"])] = row["value"]
            self._epochs.setdefault((row["seed"], row["method"]), set()).add(row["epoch"])

    def seeds(self, method: str) -> list[int]:
        return sorted(seed for seed, name in self._epochs if name == method)

    def epochs(self, method: str) -> list[int]:
        """Epochs that every seed of the method has."""
        sets = [epochs for (_, name), epochs in self._epochs.items() if name == method]
        return sorted(set.intersection(*sets)) if sets else []

    def series(
        self,
        method: str,
        statistic: str,
        *,
        layer: str = "",
        labeling: str = "",
        split: str = "train",
    ) -> dict[int, dict[int, float]]:
        """``{epoch: {seed: value}}``."""
        found: dict[int, dict[int, float]] = {}
        for epoch in self.epochs(method):
            for seed in self.seeds(method):
                key = (method, layer, labeling, split, statistic, seed, epoch)
                if key in self._values:
                    found.setdefault(epoch, {})[seed] = self._values[key]
        return found

    def last(self, method: str, statistic: str, **where: str) -> dict[int, float]:
        """``{seed: value}`` at the last common epoch; empty where nothing is recorded."""
        series = self.series(method, statistic, **where)
        return series[max(series)] if series else {}

    def first(self, method: str, statistic: str, **where: str) -> dict[int, float]:
        """``{seed: value}`` before training."""
        series = self.series(method, statistic, **where)
        return series[min(series)] if series else {}
