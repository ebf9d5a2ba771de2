"""Results as rich tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from sslkernels.report.measure import Result, Split
from sslkernels.report.speed import Comparison


def number(value: float) -> str:
    """Four significant digits, plain where that is short."""
    if math.isnan(value):
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:.3e}"


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f} %"


def table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table with some left-aligned columns, then right-aligned ones."""
    result = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in left:
        result.add_column(name)
    for name in right:
        result.add_column(name, justify="right")
    return result


def report(results: Sequence[Result]) -> Table:
    """One row per labeling."""
    tested = any(result.test is not None for result in results)
    head = ["classes", "non-empty", "CDNV", "NCC train", *(["NCC test"] if tested else [])]
    rows = table("Class geometry", ["labeling"], head)
    for result in results:
        cells = [
            escape(result.name),
            str(result.num_classes),
            str(result.filled),
            number(result.cdnv),
            percent(result.train.ncc),
        ]
        if tested:
            cells.append(percent(result.test.ncc) if result.test else "–")
        rows.add_row(*cells)
    return rows


def as_json(result: Result) -> dict[str, Any]:
    """The numbers of one labeling, whole and by class."""
    per_class: dict[str, Any] = {
        "variance": result.variances,
        **_by_class("train", result.train),
    }
    if result.test is not None:
        per_class |= _by_class("test", result.test)
    if result.cdnv_matrix is not None:
        per_class["cdnv"] = row_means(result.cdnv_matrix)
    return {
        "classes": result.num_classes,
        "non_empty_classes": result.filled,
        "cdnv": result.cdnv,
        "ncc_train": result.train.ncc,
        "ncc_test": result.test.ncc if result.test else None,
        "per_class": per_class,
    }


def row_means(matrix: np.ndarray) -> np.ndarray:
    """Each class's mean CDNV with the other non-empty classes; NaN for empty classes."""
    others = ~np.isnan(matrix)
    with np.errstate(invalid="ignore"):
        return np.where(others, matrix, 0.0).sum(1) / others.sum(1)


def _by_class(name: str, split: Split) -> dict[str, Any]:
    return {f"count_{name}": split.counts, f"ncc_{name}": split.per_class}


def speed(comparisons: Sequence[Comparison], where: str) -> Table:
    """Ours and the rival's time and error, one row per piece of work."""
    rows = table(
        f"Speed on {where}, error against float64",
        ["work"],
        ["ours", "rival", "faster", "error", "rival"],
    )
    for c in comparisons:
        rows.add_row(
            f"{c.work}, {c.size}\n[dim]against {c.rival}[/]",
            milliseconds(c.seconds),
            milliseconds(c.rival_seconds),
            f"[bold]{c.speedup:.1f}x[/]",
            f"{c.error:.0e}",
            f"{c.rival_error:.0e}",
        )
    rows.caption = "error: relative, of gradients and of means; for NCC, the share of rows"
    rows.caption_justify = "left"
    return rows


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
