"""Results as rich tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from sslkernels.report.speed import Comparison


def table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table with some left-aligned columns, then right-aligned ones."""
    result = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in left:
        result.add_column(name)
    for name in right:
        result.add_column(name, justify="right")
    return result


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
    rows.caption = "error: relative, of losses, gradients and means; for NCC, the share of rows"
    rows.caption_justify = "left"
    return rows


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
