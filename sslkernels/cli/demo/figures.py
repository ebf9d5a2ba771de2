"""The demo's figures: how training went, and what it did to the representation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sslkernels.cli.demo.measure import Snapshot
from sslkernels.evaluation.scalars import number, percent
from sslkernels.report import style

# Paul Tol's muted palette and a grey: ten colours; each point is drawn as its digit besides.
_DIGIT_COLOURS = (
    "#332288",
    "#CC6677",
    "#117733",
    "#AA4499",
    "#44AA99",
    "#882255",
    "#999933",
    "#3B8EC2",
    "#666666",
    "#D0801C",
)


def training(history: Sequence[Sequence[float]], weights: dict[str, float]) -> Figure:
    """One panel per term of the loss, epoch by epoch."""
    epochs = np.arange(1, len(history) + 1)
    values = np.asarray(history)[:, 1:]  # the first column is the loss
    with style.styled():
        figure = style.blank(11, 3.2)
        axes = figure.subplots(1, len(weights))
        colours = (style.BLUE, style.RED, style.GREEN)
        for ax, (name, weight), term, colour in zip(
            axes, weights.items(), values.T, colours, strict=True
        ):
            ax.plot(epochs, term, color=colour, lw=2)
            ax.set_title(f"{name} (weight {weight:g})")
            ax.set_xlabel("epoch")
            ax.set_ylim(bottom=0, top=1.08 * np.nanmax(term))
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes[0].set_ylabel("mean over the epoch")
        return figure


def before_after(before: Snapshot, after: Snapshot, digits: np.ndarray) -> Figure:
    """Test features in two dimensions and their CDNV matrices, the same scales on both sides."""
    limits = style.log_range(before.cdnv_matrix, after.cdnv_matrix)
    with style.styled():
        figure = style.blank(11, 9.6)
        rows = figure.subplots(2, 2, height_ratios=[1.15, 1])
        names = ("Before training", "After training, without labels")
        for top, bottom, moment, name in zip(*rows, (before, after), names, strict=True):
            geometry = moment.geometry[0]
            _projection(top, moment.test_features, digits)
            top.set_title(f"{name}: NCC {percent(geometry.ncc_test)}")
            image = style.matrix(bottom, moment.cdnv_matrix, limits)
            bottom.set_xlabel("digit")
            bottom.set_ylabel("digit")
            bottom.set_title(f"CDNV between digits, mean {number(geometry.cdnv_test)}")
        style.log_bar(figure, image, list(rows[1]), "CDNV, log scale")
        figure.suptitle(
            f"{len(digits)} test digits in the backbone's features", x=0.01, ha="left", fontsize=12
        )
        return figure


def _projection(ax: Axes, features: np.ndarray, digits: np.ndarray) -> None:
    centered = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    left, scale, _ = np.linalg.svd(centered, full_matrices=False)
    share = scale**2 / (scale**2).sum()
    left, scale = left[:, :2], scale[:2]
    points = left * scale
    for digit, colour in enumerate(_DIGIT_COLOURS):
        x, y = points[digits == digit].T
        ax.scatter(x, y, s=34, marker=f"${digit}$", color=colour, lw=0.3)
    ax.set_xlabel(f"1st principal component, {100 * share[0]:.0f} % of variance")
    ax.set_ylabel(f"2nd, {100 * share[1]:.0f} %")
    ax.tick_params(labelleft=False, labelbottom=False, length=0)
    ax.grid(False)
    ax.set_aspect("equal", adjustable="datalim")
