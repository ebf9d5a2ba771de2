"""The figure of ``sslkernels report``: a row per labeling, NCC by class beside the CDNV matrix."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sslkernels.report import style
from sslkernels.report.measure import MATRIX_CLASSES, Result
from sslkernels.report.tables import number, percent

_FEW = 40  # up to this many classes, each has its own place and number on the axis


def report(results: Sequence[Result]) -> Figure:
    with style.styled():
        figure = style.blank(11, 3.7 * len(results))
        rows = figure.subplots(len(results), 2, width_ratios=[1.75, 1], squeeze=False)
        for (left, right), result in zip(rows, results, strict=True):
            _ncc(left, result)
            left.set_title(_title(result))
            _cdnv(figure, right, result)
        return figure


def _title(result: Result) -> str:
    name = textwrap.shorten(result.name, 40, placeholder="...")
    return f"{name}: {result.filled:,} class{'es' if result.filled != 1 else ''}"


def _ncc(ax: Axes, result: Result) -> None:
    train = 100 * result.train.per_class
    test = 100 * result.test.per_class if result.test else None
    train_label = f"train {percent(result.train.ncc)}"
    test_label = f"test {percent(result.test.ncc)}" if result.test else None
    if result.num_classes <= _FEW:
        place = np.arange(result.num_classes)
        ax.set_xticks(place)
        ax.set_xlabel("class")
        if test is not None:
            ax.vlines(place, train, test, color=style.GREY, lw=1.2, zorder=1)
        ax.scatter(
            place, train, s=46, fc="white", ec=style.BLUE, lw=1.6, label=train_label, zorder=2
        )
        if test is not None:
            ax.scatter(place, test, s=34, color=style.RED, marker="D", label=test_label, zorder=3)
        ax.set_xlim(-0.6, result.num_classes - 0.4)
        if result.num_classes > 24:
            ax.tick_params(axis="x", labelsize=8, rotation=90)
    else:
        # Classes in the order of what is compared: the test score where there is one.
        scores = train if test is None else test
        order = np.argsort(np.nan_to_num(scores, nan=np.inf), kind="stable")
        order = order[~np.isnan(scores[order])]
        place = np.arange(1, len(order) + 1)
        ax.set_xlabel("classes, worst first" + ("" if test is None else " on test"))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if test is None:
            ax.plot(place, train[order], color=style.BLUE, lw=2, label=train_label)
        else:
            dots = max(4, min(20, 4000 / len(order)))
            ax.scatter(
                place, train[order], s=dots, color=style.BLUE, alpha=0.5, lw=0, label=train_label
            )
            ax.plot(place, test[order], color=style.RED, lw=2, label=test_label)
    ax.set_ylabel("NCC accuracy [%]")
    shown = np.concatenate([train] if test is None else [train, test])
    low = shown[~np.isnan(shown)].min(initial=100.0)
    floor = max(0.0, np.floor((low - 5) / 10) * 10)
    ax.set_ylim(floor - 0.02 * (100 - floor), 100 + 0.04 * (100 - floor))
    style.legend_above(ax, markerscale=1.0 if result.num_classes <= _FEW else 2.0)


def _cdnv(figure: Figure, ax: Axes, result: Result) -> None:
    ax.set_title(f"CDNV, mean {number(result.cdnv)}")
    if result.cdnv_matrix is None:
        words = f"matrix shown up to\n{MATRIX_CLASSES:,} classes"
    elif not np.isfinite(result.cdnv_matrix).any():
        words = "no two classes with\na center each"
    else:
        limits = style.log_range(result.cdnv_matrix)
        image = style.matrix(ax, result.cdnv_matrix, limits)
        style.log_bar(figure, image, [ax], "CDNV, log scale")
        return
    ax.set_axis_off()
    ax.text(0.5, 0.5, words, ha="center", va="center", color=style.GREY, transform=ax.transAxes)
