"""Figures as panels: each panel is drawn on its own for the page, light and dark, and all of a
figure together for a PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sslkernels.report import style

WIDTH, HEIGHT = 4.6, 4.0  # inches of a panel

_DARK: Any = {
    "figure.facecolor": "#15181C",
    "axes.facecolor": "#15181C",
    "axes.edgecolor": "#8A9099",
    "axes.labelcolor": "#E4E6EA",
    "axes.titlecolor": "#E4E6EA",
    "text.color": "#E4E6EA",
    "xtick.color": "#C2C7CF",
    "ytick.color": "#C2C7CF",
    "grid.color": "#2B3138",
    "legend.labelcolor": "#E4E6EA",
}


@dataclass(frozen=True)
class Panel:
    """One pair of axes; ``draw`` gets them and the colour of text."""

    title: str
    draw: Callable[[Axes, str], None]


@dataclass(frozen=True)
class Plot:
    """A figure of the report.

    Attributes:
        key: name of its file.
        title, caption: one line, and what the reader should see and how it was measured.
        panels: in reading order.
        columns, rows: the table beneath.
    """

    key: str
    title: str
    caption: str
    panels: Sequence[Panel]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = field(default=())

    def pictures(self, *, dark: bool) -> list[str]:
        """Every panel as a PNG in a ``data:`` address."""
        found = []
        for panel in self.panels:
            with _look(dark) as text:
                figure = style.blank(WIDTH, HEIGHT)
                axes = figure.subplots()
                panel.draw(axes, text)
                axes.set_title(panel.title)
                figure.set_dpi(170)
                buffer = io.BytesIO()
                FigureCanvasAgg(figure).print_png(buffer)
            found.append("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
        return found

    def save(self, path: Path, *, across: int = 3) -> None:
        """All panels in one PNG, light."""
        count = len(self.panels)
        across = min(across, count)
        down = -(-count // across)
        with _look(False) as text:
            figure = style.blank(WIDTH * across, HEIGHT * down)
            grid = np.atleast_1d(figure.subplots(down, across)).ravel()
            for axes, panel in zip(grid, self.panels, strict=False):
                panel.draw(axes, text)
                axes.set_title(panel.title)
            for axes in grid[count:]:
                axes.set_visible(False)
            style.save(figure, path)


@contextmanager
def _look(dark: bool) -> Iterator[str]:
    with style.styled(), matplotlib.rc_context(_DARK if dark else {}):
        yield "#E4E6EA" if dark else style.BLACK


@dataclass(frozen=True)
class Curve:
    """One line of a panel: ``{x: {seed: value}}``, its mean drawn, its range over seeds shaded."""

    name: str
    values: dict[int, dict[int, float]]
    colour: str
    dashes: str = "-"
    marker: str = "o"


def curves(
    lines: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    *,
    log: bool = False,
    percent: bool = False,
    limits: tuple[float, float] | None = None,
) -> Callable[[Axes, str], None]:
    """A panel of curves; a value that is not finite leaves a gap."""

    def draw(axes: Axes, text: str) -> None:
        for line in lines:
            if not line.values:
                continue
            x = sorted(line.values)
            table = [np.array(list(line.values[k].values()), dtype=float) for k in x]
            scale = 100 if percent else 1
            mean = scale * np.array([np.mean(v) for v in table])
            low = scale * np.array([np.min(v) for v in table])
            high = scale * np.array([np.max(v) for v in table])
            colour = text if line.colour == style.BLACK else line.colour
            options: Any = {"color": colour, "ls": line.dashes, "lw": 1.8, "ms": 3.5}
            axes.plot(x, mean, marker=line.marker, label=line.name, **options)
            axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if limits is not None:
            axes.set_ylim(*limits)
        if log:
            axes.set_yscale("log")
            bottom, top = axes.get_ylim()
            subs = (1.0, 2.0, 5.0) if top < 300 * bottom else (1.0,)
            axes.yaxis.set_major_locator(LogLocator(subs=subs))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(  # below, where it hides nothing
            fontsize=8,
            labelcolor=text,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.22 if xlabel else -0.3),
            ncols=3 if len(lines) > 4 else 2,
            columnspacing=1.2,
        )

    return draw


def by_layer(
    lines: Sequence[Curve],
    names: Sequence[str],
    ylabel: str,
    *,
    log: bool = False,
    percent: bool = False,
) -> Callable[[Axes, str], None]:
    """Curves over layers, their names on the axis."""
    plain = curves(lines, "", ylabel, log=log, percent=percent)

    def draw(axes: Axes, text: str) -> None:
        plain(axes, text)
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")

    return draw


def scatter(
    points: np.ndarray, classes: np.ndarray, names: Sequence[str] | None, axis: str
) -> Callable[[Axes, str], None]:
    """Rows in two dimensions, coloured and marked by class."""

    def draw(axes: Axes, text: str) -> None:
        kinds = np.unique(classes)
        for number, kind in enumerate(kinds):
            colour = _COLOURS[number % len(_COLOURS)]
            marker = _MARKERS[number // len(_COLOURS) % len(_MARKERS)]
            x, y = points[classes == kind].T
            label = str(kind) if names is None else names[int(kind)]
            axes.scatter(x, y, s=9, color=colour, marker=marker, lw=0, label=label, alpha=0.85)
        axes.set_xlabel(f"{axis} 1")
        axes.set_ylabel(f"{axis} 2")
        axes.tick_params(labelleft=False, labelbottom=False, length=0)
        axes.grid(False)
        if len(kinds) <= 10:
            axes.legend(
                fontsize=7, markerscale=1.8, handletextpad=0.1, loc="center left",
                bbox_to_anchor=(1.0, 0.5), labelcolor=text,
            )  # fmt: skip

    return draw


# Okabe and Ito's palette, then Paul Tol's muted one: ten that hold on white and on near-black.
_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7",
    "#56B4E9", "#8C6BB1", "#999933", "#A6761D", "#7F8C8D",
)  # fmt: skip
_MARKERS = ("o", "^", "s", "D")
