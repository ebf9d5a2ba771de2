"""The rows of a monitor as a file of JSON lines that grows by one measurement at a time."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

COLUMNS = ("step", "layer", "labeling", "split", "statistic", "value")


def line(row: dict[str, Any]) -> str:
    """One row; NaN and infinity, which JSON does not have, are null."""
    value = row["value"]
    lost = isinstance(value, float) and not math.isfinite(value)
    return json.dumps({**row, "value": None if lost else value}) + "\n"


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """All rows of a measurement in one write, on the disk when this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(map(line, rows)))
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that an earlier run has left; a line cut short at its end is taken off
    the file. Of rows that were measured twice the last ones count.

    Raises:
        ValueError: a line is not a row, named by its number.
    """
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, text in enumerate(data[:whole].splitlines(), 1):
        try:
            row = json.loads(text)
            key = tuple(row[column] for column in COLUMNS[:-1])
            value = row["value"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"out: {path}, line {number}: not a row of a monitor") from error
        rows.pop(key, None)
        rows[key] = {**row, "value": math.nan if value is None else value}
    if whole < len(data):
        os.truncate(path, whole)
    return list(rows.values())
