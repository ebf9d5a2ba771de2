"""The figure of ``sslkernels report``.

One set of embeddings: a row per labeling, NCC by class beside the CDNV matrix. Several layers or
checkpoints: CDNV and NCC from one to the next, a line per labeling. No labels: the spectra.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sslkernels.evaluation import EmbeddingsResult, Evaluation, LabelingResult
from sslkernels.evaluation.scalars import number, percent
from sslkernels.report import style

_FEW = 40  # up to this many classes, each has its own place and number on the axis
_COLOURS = (style.BLUE, style.RED, style.GREEN, style.PURPLE, style.ORANGE, style.SKY, style.BLACK)


def report(evaluation: Evaluation) -> Figure:
    found = list(evaluation.embeddings.values())
    with style.styled():
        if not any(result.labelings for result in found):
            return _spectra(found)
        if len(found) > 1:
            return _layers(found)
        return _labelings(list(found[0].labelings.values()))


def _labelings(results: Sequence[LabelingResult]) -> Figure:
    figure = style.blank(11, 3.7 * len(results))
    rows = figure.subplots(len(results), 2, width_ratios=[1.75, 1], squeeze=False)
    for (left, right), result in zip(rows, results, strict=True):
        _ncc(left, result)
        left.set_title(_title(result))
        _cdnv(figure, right, result)
    return figure


# ---- several layers ------------------------------------------------------------------------------


def _layers(found: Sequence[EmbeddingsResult]) -> Figure:
    names = list(dict.fromkeys(name for result in found for name in result.labelings))
    tested = any(x.test is not None for result in found for x in result.labelings.values())
    figure = style.blank(11, 4.4)
    left, right = figure.subplots(1, 2)
    for name, colour in zip(names, _cycled(len(names)), strict=True):
        line: dict[str, Any] = {"color": colour, "marker": "o", "ms": 6, "lw": 2}
        left.plot(_across(found, name, lambda x: x.cdnv), label=_short(name), **line)
        train = _across(found, name, lambda x: 100 * x.train.accuracy)
        test = _across(found, name, lambda x: 100 * x.test.accuracy if x.test else np.nan)
        light = {**line, "ls": "--", "lw": 1.4, "mfc": "white"} if tested else line
        right.plot(train, **light)
        right.plot(test, **line)
    left.set_yscale("log")
    _plain_log(left)
    left.set_title("CDNV on train")
    right.set_title("NCC accuracy [%]")
    if tested:
        grey: dict[str, Any] = {"color": style.GREY, "marker": "o", "ms": 6}
        kinds = [
            Line2D([], [], lw=2, label="test", **grey),
            Line2D([], [], lw=1.4, ls="--", mfc="white", label="train", **grey),
        ]
        style.legend_above(right, handles=kinds)
    else:
        right.set_title("NCC accuracy on train [%]")
    layers = [_short(result.name) for result in found]
    crowded = sum(map(len, layers)) > 48
    for ax in (left, right):
        ax.set_xticks(range(len(found)), layers)
        ax.set_xlim(-0.25, len(found) - 0.75)
        if crowded:
            ax.tick_params(axis="x", rotation=35 if len(found) <= 16 else 90)
            for text in ax.get_xticklabels():
                text.set_horizontalalignment("right" if len(found) <= 16 else "center")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(names))
    )
    return figure


def _across(
    found: Sequence[EmbeddingsResult], name: str, value: Callable[[LabelingResult], float]
) -> np.ndarray:
    """One number of a labeling in every set of embeddings, NaN where it is not labelled."""
    return np.array(
        [value(x.labelings[name]) if name in x.labelings else np.nan for x in found], dtype=float
    )


# ---- no labels -----------------------------------------------------------------------------------


def _spectra(found: Sequence[EmbeddingsResult]) -> Figure:
    figure = style.blank(7, 4.4)
    ax = figure.subplots()
    lowest = np.inf
    for result, colour in zip(found, _cycled(len(found)), strict=True):
        if result.spectrum is not None:
            values = result.spectrum.eigenvalues
            # Below this, eigenvalues of a float64 scatter matrix are its rounding.
            values = values[values > 1e-13 * values.max(initial=0.0)]
            lowest = min(lowest, values.min(initial=np.inf))
            ranks = np.arange(1, len(values) + 1)
            words = f"{_short(result.name)} RankMe {number(result.spectrum.rankme)}".strip()
            ax.plot(ranks, values, color=colour, lw=2, label=words)
    ax.set_title("Eigenvalues of the covariance")
    if np.isfinite(lowest):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("rank")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.legend(loc="lower left")
    else:
        ax.set_axis_off()
        words = "no labels and no spectrum:\nnothing to draw"
        ax.text(0.5, 0.5, words, ha="center", va="center", color=style.GREY, transform=ax.transAxes)
    return figure


def _cycled(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def _short(name: str) -> str:
    return style.plain(name, 24)


def _plain_log(ax: Axes) -> None:
    """Plain numbers on a log axis, more of them where it spans little."""
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 50 * low else (1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


# ---- one set of embeddings -----------------------------------------------------------------------


def _title(result: LabelingResult) -> str:
    name = style.plain(result.name, 40)
    return f"{name}: {result.non_empty:,} class{'es' if result.non_empty != 1 else ''}"


def _ncc(ax: Axes, result: LabelingResult) -> None:
    train = 100 * result.train.per_class
    test = 100 * result.test.per_class if result.test else None
    train_label = f"train {percent(result.train.accuracy)}"
    test_label = f"test {percent(result.test.accuracy)}" if result.test else None
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


def _cdnv(figure: Figure, ax: Axes, result: LabelingResult) -> None:
    ax.set_title(f"CDNV, mean {number(result.cdnv)}")
    if result.cdnv_matrix is None:
        words = "matrix shown for\nfewer classes"
    elif not np.isfinite(result.cdnv_matrix).any():
        words = "no two classes with\na center each"
    else:
        limits = style.log_range(result.cdnv_matrix)
        image = style.matrix(ax, result.cdnv_matrix, limits)
        style.log_bar(figure, image, [ax], "CDNV, log scale")
        return
    ax.set_axis_off()
    ax.text(0.5, 0.5, words, ha="center", va="center", color=style.GREY, transform=ax.transAxes)
