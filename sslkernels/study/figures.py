"""The figures of a study, (a) to (f), each with its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sslkernels.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from sslkernels.study import digits
from sslkernels.study.methods import ABLATIONS, NAMES
from sslkernels.study.network import LAYERS
from sslkernels.study.panels import Curve, Panel, Plot, by_layer, curves, scatter
from sslkernels.study.plane import projections
from sslkernels.study.records import Table

ENCODING, EMBEDDING = "backbone", "expander"
_LEVELS = {"sample": "augmented sample", "digit": "class", "shape": "superclass"}
_LEVEL_COLOURS = {"sample": BLUE, "digit": RED, "shape": GREEN}
_METHOD_COLOURS = {
    "vicreg": BLUE,
    "simclr": ORANGE,
    "barlow-twins": PURPLE,
    "sigreg": SKY,
    "supervised": GREY,
    "invariance-only": RED,
    "regularization-only": GREEN,
}
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "^", "s", "D", "v", "P")

Series = dict[int, dict[int, float]]


def relative(series: Series) -> Series:
    """Each seed's curve from 0 at its start to 1 at its end; left out where it does not move."""
    if len(series) < 2:
        return {}
    first, last = series[min(series)], series[max(series)]
    moved = [seed for seed in last if seed in first and last[seed] != first[seed]]
    if not moved:
        return {}
    return {
        x: {
            seed: (values[seed] - first[seed]) / (last[seed] - first[seed])
            for seed in moved
            if seed in values
        }
        for x, values in series.items()
    }


def ncc(table: Table, method: str, labeling: str, layer: str = ENCODING) -> Series:
    return table.series(method, "ncc", layer=layer, labeling=labeling, split="test")


def over_training(table: Table, method: str) -> Plot:
    """(a) Terms of the loss and NCC at three levels."""
    name = NAMES[method]
    terms = [
        Curve("invariance", table.series(method, "invariance"), PURPLE, "-", "D"),
        Curve("regularization", table.series(method, "regularization"), GREY, "--", "v"),
    ]
    levels = [
        Curve(
            _LEVELS[key], ncc(table, method, key), _LEVEL_COLOURS[key], _DASHES[k],
            _MARKERS[k],
        )
        for k, key in enumerate(_LEVELS)
    ]  # fmt: skip

    def scaled(curve: Curve) -> Curve:
        values = relative(curve.values)
        return Curve(curve.name, values, curve.colour, curve.dashes, curve.marker)

    share = "relative to its start (0) and end (1)"
    rows = [
        (curve.name, *_ends(curve.values, 100 if k >= len(terms) else 1))
        for k, curve in enumerate([*terms, *levels])
    ]
    return Plot(
        f"a-training-{method}",
        f"(a) {name}: terms of the loss, and what the encodings cluster by",
        "Left: the two weighted parts of the loss, mean over an epoch. Middle: held-out rows whose "
        "nearest class mean is their own, at three levels. Right: the same curves, each relative "
        "to its start and end, cut off at -1 and 2 (a part that ends near where it started is "
        "divided by little): which part of the loss moves when the clustering does? Lines are "
        "means over seeds, bands their range.",
        [
            Panel("parts of the loss", curves(terms, "epoch", "value", log=_positive(terms))),
            Panel("clustering", curves(levels, "epoch", "held-out NCC accuracy, %", percent=True)),
            Panel(
                "relative", curves(
                    [scaled(c) for c in (*terms, *levels)], "epoch", share, limits=(-1, 2)
                )
            ),
        ],
        ("quantity", "start", "end"),
        rows,
    )  # fmt: skip


def _positive(lines: Sequence[Curve]) -> bool:
    values = [v for line in lines for row in line.values.values() for v in row.values()]
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def _ends(series: Series, scale: float = 1) -> tuple[str, str]:
    return tuple(  # type: ignore[return-value]
        spread(series[end(series)], scale) if series else "–" for end in (min, max)
    )


def spread(values: Mapping[int, float], scale: float = 1) -> str:
    """Mean and range over seeds."""
    found = np.array([scale * value for value in values.values() if math.isfinite(value)])
    if not len(found):
        return "–"
    if len(found) == 1 or found.min() == found.max():
        return f"{found.mean():.3g}"
    return f"{found.mean():.3g} ({found.min():.3g} to {found.max():.3g})"


def graded_targets(
    table: Table, method: str, graded: Sequence[str], agreement: Mapping[str, float]
) -> Plot:
    """(b) Targets from random to semantic."""
    shades = _shades(len(graded))

    def lines(statistic: str, split: str) -> list[Curve]:
        return [
            Curve(
                _target(name, agreement), table.series(
                    method, statistic, layer=ENCODING, labeling=name, split=split
                ), shades[k], _DASHES[k % 4], _MARKERS[k % 6],
            )
            for k, name in enumerate(graded)
        ]  # fmt: skip

    rows = []
    for name in graded:
        where = {"layer": ENCODING, "labeling": name, "split": "test"}
        row: list[Any] = [name, f"{100 * agreement[name]:.0f} %"]
        for statistic, scale in (("ncc", 100.0), ("linear_probe", 100.0), ("cdnv", 1.0)):
            row += _ends(table.series(method, statistic, **where), scale)
        rows.append(row)
    held = "of held-out rows, %"
    return Plot(
        f"b-targets-{method}",
        f"(b) {NAMES[method]}: targets from random to semantic",
        "Targets are random labels of equal class sizes, what a supervised network predicts after "
        "so many steps of its own training, and the digits; in brackets, the share of images that "
        "a target labels as their digit. The linear probe is ridge regression in closed form. CDNV "
        "falls as classes separate. A target that the untrained network already separates (an "
        "early stage is a simple function of the pixels) starts high: what counts is the change.",
        [
            Panel(
                "nearest class center", curves(lines("ncc", "test"), "epoch", held, percent=True)
            ),
            Panel(
                "linear probe",
                curves(lines("linear_probe", "test"), "epoch", held, percent=True),
            ),
            Panel(
                "CDNV",
                curves(lines("cdnv", "test"), "epoch", "CDNV of held-out rows", log=True),
            ),
        ],
        (
            "target", "agreement", "NCC % start", "end", "probe % start", "end", "CDNV start",
            "end",
        ),
        rows,
    )  # fmt: skip


def _target(name: str, agreement: Mapping[str, float]) -> str:
    return f"{name} ({100 * agreement[name]:.0f} %)"


def _shades(count: int) -> list[str]:
    """From grey to dark blue to orange: random to semantic, ordered in lightness too."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](0.08 + 0.8 * k / max(1, count - 1))) for k in range(count)]


def layers(table: Table, methods: Sequence[str], graded: Sequence[str]) -> Plot:
    """(c) The same by layer."""
    names = list(LAYERS.values())

    def profile(method: str, statistic: str, labeling: str, first: bool = False) -> Series:
        ask = table.first if first else table.last
        where = {"labeling": labeling, "split": "test"}
        found = {k: ask(method, statistic, layer=key, **where) for k, key in enumerate(LAYERS)}
        return {k: values for k, values in found.items() if values}

    def of_methods(statistic: str) -> list[Curve]:
        return [
            Curve(
                NAMES[m], profile(m, statistic, "digit"), _METHOD_COLOURS[m], _DASHES[k % 4],
                _MARKERS[k],
            )
            for k, m in enumerate(methods)
        ]  # fmt: skip

    def of_targets(statistic: str) -> list[Curve]:
        shades = _shades(len(graded))
        return [
            Curve(
                name, profile(methods[0], statistic, name), shades[k], _DASHES[k % 4],
                _MARKERS[k % 6],
            )
            for k, name in enumerate(graded)
        ]  # fmt: skip

    start = Curve("before training", profile(methods[0], "ncc", "digit", True), BLACK, ":", "x")
    by_method = of_methods("ncc")
    rows = [
        (curve.name, *(spread(curve.values.get(k, {}), 100) for k in range(len(names))))
        for curve in (start, *by_method)
    ]
    one, share, tightness = NAMES[methods[0]], "of held-out rows, %", "CDNV of held-out rows"
    return Plot(
        "c-layers",
        "(c) Clustering by layer, after training",
        "From the first block to the embedding that the loss sees: nearest class centers, the "
        "linear probe, and CDNV, where lower is tighter. Above by digit, for each way of training; "
        f"below {one}, for targets from random to semantic.",
        [
            Panel("NCC by digit", by_layer([start, *by_method], names, share, percent=True)),
            Panel(
                "probe by digit", by_layer(of_methods("linear_probe"), names, share, percent=True)
            ),
            Panel("CDNV by digit", by_layer(of_methods("cdnv"), names, tightness, log=True)),
            Panel("NCC by target", by_layer(of_targets("ncc"), names, share, percent=True)),
            Panel(
                "probe by target",
                by_layer(of_targets("linear_probe"), names, share, percent=True),
            ),
            Panel("CDNV by target", by_layer(of_targets("cdnv"), names, tightness, log=True)),
        ],
        ("training, held-out NCC by digit in %", *names),
        rows,
    )


def ablation(table: Table) -> Plot:
    """(d) Invariance only, regularization only, both."""
    parts = ("vicreg", *ABLATIONS)
    labels = ("both", NAMES["invariance-only"], NAMES["regularization-only"])

    def lines(labeling: str) -> list[Curve]:
        return [
            Curve(label, ncc(table, m, labeling), _METHOD_COLOURS[m], _DASHES[k], _MARKERS[k])
            for k, (m, label) in enumerate(zip(parts, labels, strict=True))
        ]

    rows = []
    for m, label in zip(parts, labels, strict=True):
        rows.append(
            (label, *(spread(table.last(
                m, "ncc", layer=ENCODING, labeling=key, split="test"
            ), 100) for key in _LEVELS))
        )  # fmt: skip
    held = "held-out NCC accuracy, %"
    return Plot(
        "d-ablation",
        "(d) Which part of the loss does it?",
        "VICReg with both parts of its loss, with its invariance term alone (embeddings may "
        "collapse), and with its variance and covariance terms alone (views are not compared).",
        [Panel(f"by {_LEVELS[k]}", curves(lines(k), "epoch", held, percent=True)) for k in _LEVELS],
        ("loss, held-out NCC in %", *_LEVELS.values()),
        rows,
    )


def plane(pictured: Mapping[str, Mapping[str, np.ndarray]], method: str) -> Plot:
    """(e) Embeddings in two dimensions, before and after.

    Args:
        pictured: ``{"before" | "after": {"images": [N, D], "digit": [N], "shape": [N],
            "views": [M, D], "sample": [M]}}``.
    """
    shapes = list(digits.SHAPES)
    panels = []
    for axis, project in projections().items():
        for moment in ("before", "after"):
            given = pictured[moment]
            images, views = project(given["images"]), project(given["views"])
            for points, key, names in (
                (views, "sample", None), (images, "digit", None), (images, "shape", shapes),
            ):  # fmt: skip
                panels.append(
                    Panel(
                        f"{moment} training, by {_LEVELS[key]}",
                        scatter(points, given[key], names, axis),
                    )
                )
    count = len(pictured["after"]["images"])
    samples = len(np.unique(pictured["after"]["sample"]))
    return Plot(
        "e-plane",
        f"(e) {NAMES[method]}: encodings in two dimensions, before and after training",
        f"{count} held-out images by class and superclass, and views of {samples} images by the "
        "image that they come from; the first seed. Distances in t-SNE are not distances in the "
        "encoding; principal components keep them as far as two dimensions can.",
        panels,
    )


def collapse(table: Table, methods: Sequence[str]) -> Plot:
    """(f) NC1, within-class variance, effective rank."""

    def lines(statistic: str, layer: str, labeling: str = "") -> list[Curve]:
        return [
            Curve(
                NAMES[m], table.series(m, statistic, layer=layer, labeling=labeling),
                _METHOD_COLOURS[m], _DASHES[k % 4], _MARKERS[k],
            )
            for k, m in enumerate(methods)
        ]  # fmt: skip

    def share(layer: str) -> list[Curve]:
        found = []
        for k, m in enumerate(methods):
            within = table.series(m, "within_variance", layer=layer, labeling="digit")
            total = table.series(m, "variance", layer=layer)
            values = {
                x: {s: row[s] / total[x][s] for s in row if total.get(x, {}).get(s, 0) > 0}
                for x, row in within.items()
            }
            values = {x: row for x, row in values.items() if row}
            found.append(Curve(NAMES[m], values, _METHOD_COLOURS[m], _DASHES[k % 4], _MARKERS[k]))
        return found

    panels, rows = [], []
    for layer in (ENCODING, EMBEDDING):
        where = LAYERS[layer]
        panels += [
            Panel(
                f"NC1, {where}",
                curves(lines("nc1", layer, "digit"), "epoch", "NC1 by digit", log=True),
            ),
            Panel(
                f"within-class variance, {where}",
                curves(share(layer), "epoch", "share of all variance, %", percent=True),
            ),
            Panel(
                f"effective rank, {where}",
                curves(lines("effective_rank", layer), "epoch", "dimensions"),
            ),
        ]
        for m in methods:
            rows.append(
                (
                    f"{NAMES[m]}, {where}",
                    *_ends(table.series(m, "nc1", layer=layer, labeling="digit")),
                    *_ends(table.series(m, "effective_rank", layer=layer)),
                    *_ends(table.series(m, "rankme", layer=layer)),
                )
            )
    return Plot(
        "f-collapse",
        "(f) Collapse and compression: encodings beside embeddings",
        "NC1 falls as classes contract against the distances between them. The effective rank "
        "counts the dimensions that embeddings use: a regularized loss spreads the embedding over "
        "many, an invariance alone lets it collapse.",
        panels,
        (
            "training, layer", "NC1 start", "end", "effective rank start", "end", "RankMe start",
            "end",
        ),
        rows,
    )  # fmt: skip
