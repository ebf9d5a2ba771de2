"""One look for all figures: colour-blind safe, legible at half size, no interactive backend."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

# Okabe and Ito's palette, without its yellow, which is faint on white.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#222222",
    "#9A9A9A",
)
EMPTY = "#E8E8E8"
_CELLS = 512  # along each side of a matrix: about the pixels that it gets

_RC: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": BLACK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "figure.facecolor": "white",
}


@contextmanager
def styled() -> Iterator[None]:
    with matplotlib.rc_context(_RC):
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure in inches; drawn by Agg when saved, whatever the display."""
    return Figure(figsize=(width, height), layout="constrained")


def plain(name: str, width: int) -> str:
    """A name that somebody else has chosen, at most ``width`` characters of it, to be drawn as it
    is: no mathematics between dollars, nothing that a font refuses, no entry that legends hide."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    shown = shown if len(shown) <= width else shown[: width - 3] + "..."
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """A PNG at 150 dpi; coarser where it would be taller than Agg can draw.

    ``figure.savefig`` would draw twice, the first time for the layout alone, which any drawing
    makes on its own. Level 6, the default, compresses 2% better in twice the time.
    """
    figure.set_dpi(min(150.0, 60_000 / figure.get_figheight()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box is drawn for it
        FigureCanvasAgg(figure).print_png(path, pil_kwargs={"compress_level": 4})


def log_range(*matrices: np.ndarray) -> tuple[float, float]:
    """The range of a log scale for all positive finite values, at least a factor of 2 wide."""
    values = np.concatenate([matrix.ravel() for matrix in matrices])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return 0.1, 1.0
    low, high = float(values.min()), float(values.max())
    middle = (low * high) ** 0.5
    return min(low, middle / 2**0.5), max(high, middle * 2**0.5)


def matrix(ax: Axes, values: np.ndarray, limits: tuple[float, float]) -> AxesImage:
    """A C x C matrix with log colours, large ones averaged over squares of cells; those without a
    value are grey."""
    size = len(values)
    step = -(-size // _CELLS)
    cells = averaged(values, step)
    shown = np.ma.masked_invalid(np.clip(cells, *limits))
    ax.set_facecolor(EMPTY)
    ax.grid(False)
    end = step * len(cells) - 0.5
    image = ax.imshow(
        shown,
        cmap="cividis",
        norm=LogNorm(*limits),
        interpolation="nearest" if size <= 128 else "auto",
        extent=(-0.5, end, end, -0.5),
    )
    ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    ax.set_xlabel("class")
    ax.set_ylabel("class")
    if size <= 20:
        ax.set_xticks(range(size))
        ax.set_yticks(range(size))
        if size > 12:
            ax.tick_params(labelsize=7)
    if size <= 4:
        _write_values(ax, values, limits)
    return image


def averaged(values: np.ndarray, step: int) -> np.ndarray:
    """Means over squares of ``step`` x ``step`` cells, of those that have a value; NaN of none."""
    if step == 1:
        return values
    padded = np.pad(values, (0, -len(values) % step), constant_values=np.nan)
    count = len(padded) // step
    squares = padded.reshape(count, step, count, step)
    known = np.isfinite(squares)
    with np.errstate(invalid="ignore"):
        return np.where(known, squares, 0.0).sum((1, 3)) / known.sum((1, 3))


def log_bar(figure: Figure, image: AxesImage, axes: Sequence[Axes], label: str) -> None:
    """A colour bar with plain numbers on its log scale."""
    low, high = image.get_clim()
    narrow = high < 8 * low
    ticks: Locator = MaxNLocator(5) if narrow else LogLocator(subs=(1.0, 2.0, 5.0))
    bar = figure.colorbar(image, ax=axes, shrink=0.85, ticks=ticks)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.set_label(label)
    bar.outline.set_visible(False)


def legend_above(ax: Axes, **options: Any) -> None:
    """A one-line legend at the right end of the title line, where it hides no data."""
    ax.legend(
        loc="lower right",
        bbox_to_anchor=(1.01, 0.985),
        ncols=8,
        handletextpad=0.4,
        columnspacing=1.2,
        borderaxespad=0.2,
        **options,
    )


def _write_values(ax: Axes, values: np.ndarray, limits: tuple[float, float]) -> None:
    middle = (limits[0] * limits[1]) ** 0.5
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = BLACK if value > middle else "white"
            ax.text(j, i, f"{value:.3g}", ha="center", va="center", color=colour)
