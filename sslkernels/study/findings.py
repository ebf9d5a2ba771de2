"""What the paper found, and what the runs of a study show of each.

The claims are those of the abstract and the figures' subjects of "Reverse Engineering
Self-Supervised Learning" (arXiv 2305.15614). Its protocol (network widths, numbers of
augmentations, how targets were graded) is not known to us in full; these are checks of the same
claims at this study's scale, each with its own criterion.

A claim is *reproduced* when its effect has the claimed sign in every seed and its mean is more than
two standard errors from zero (with one seed, the sign alone, and the page says so); *not
testable* when the runs it needs were not made; *not reproduced* otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sslkernels.study.methods import NAMES
from sslkernels.study.network import LAYERS
from sslkernels.study.records import Table

REPRODUCED, NOT, UNTESTABLE = "reproduced", "not reproduced", "not testable at this scale"
ENCODING = "backbone"


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    claim: str
    criterion: str
    shown: str
    verdict: str


def findings(
    table: Table, methods: Sequence[str], graded: Mapping[int, Mapping[str, float]]
) -> list[Finding]:
    """Args:
    table: all rows of the study.
    methods: the self-supervised ones.
    graded: by seed, the share of images that each graded target labels as their digit.
    """
    found: list[Finding] = []
    for method in methods:
        name = NAMES[method]

        def gain(labeling: str, method: str = method, layer: str = ENCODING) -> dict[int, float]:
            where = {"layer": layer, "labeling": labeling, "split": "test"}
            last, first = table.last(method, "ncc", **where), table.first(method, "ncc", **where)
            return {seed: last[seed] - first[seed] for seed in last if seed in first}

        for labeling, level in (
            ("digit", "semantic class"), ("sample", "augmented sample"), ("shape", "superclass"),
        ):  # fmt: skip
            found.append(
                _judged(
                    f"{name}: training clusters the samples by {level}",
                    f"NCC accuracy on held-out rows by {level}, encoding, end minus start > 0",
                    gain(labeling),
                )
            )
        digit, chance = gain("digit"), gain("random")
        found.append(
            _judged(
                f"{name}: more by semantic than by random targets",
                "gain in held-out NCC by digit minus gain by random labels > 0",
                {seed: digit[seed] - chance[seed] for seed in digit if seed in chance},
            )
        )
        found.append(
            _judged(
                f"{name}: the more semantic the targets, the more their clustering gains",
                "rank correlation, over graded targets, of agreement with the digits and gain > 0",
                {
                    seed: _rank_correlation(list(shares.values()), [
                        gain(labeling).get(seed, math.nan) for labeling in shares
                    ])
                    for seed, shares in graded.items()
                    if seed in digit
                },
                percent=False,
            )
        )  # fmt: skip
        blocks = [layer for layer in LAYERS if layer.startswith(ENCODING)]
        deepest, shallowest = (
            table.last(method, "ncc", layer=layer, labeling="digit", split="test")
            for layer in (blocks[-1], blocks[0])
        )
        found.append(
            _judged(
                f"{name}: deeper layers cluster by class more",
                "held-out NCC by digit after training, encoding minus block 1 > 0",
                {seed: deepest[seed] - shallowest[seed] for seed in deepest if seed in shallowest},
            )
        )
        series = table.series(method, "ncc", layer=ENCODING, labeling="digit", split="test")
        epochs = sorted(series)
        later = {}
        if len(epochs) >= 4:
            half = epochs[len(epochs) // 2]
            later = {seed: series[epochs[-1]][seed] - series[half][seed] for seed in series[half]}
        found.append(
            _judged(
                f"{name}: clustering by class goes on growing late in training",
                f"held-out NCC by digit, last epoch minus epoch {epochs[len(epochs) // 2]} > 0"
                if later
                else "held-out NCC by digit, last epoch minus the middle one > 0",
                later,
            )
        )
    found += _drivers(table)
    return found


def _drivers(table: Table) -> list[Finding]:
    """What the clustering comes from: VICReg's parts alone, and the order in which they move."""
    where = {"layer": ENCODING, "labeling": "digit", "split": "test"}

    def gain(method: str) -> dict[int, float]:
        last, first = table.last(method, "ncc", **where), table.first(method, "ncc", **where)
        return {seed: last[seed] - first[seed] for seed in last if seed in first}

    regularized, pulled = gain("regularization-only"), gain("invariance-only")
    alone = {seed: min(g, g - pulled[seed]) for seed, g in regularized.items() if seed in pulled}
    after = {}
    terms, clustering = table.series("vicreg", "invariance"), table.series("vicreg", "ncc", **where)
    if len(terms) >= 4:
        start, end = min(terms), max(terms)
        for seed, first in terms[start].items():
            fallen = [
                x for x in terms if first - terms[x][seed] >= 0.9 * (first - terms[end][seed])
            ]
            whole = clustering[end][seed] - clustering[start][seed]
            if whole > 0:
                later = clustering[end][seed] - clustering[min(fallen)][seed]
                after[seed] = later / whole - 0.5
    return [
        _judged(
            "The regularization clusters by class, the invariance does not",
            "gain in held-out NCC by digit from VICReg's regularization alone > 0, and more than "
            "from its invariance alone; the smaller of the two differences",
            alone,
        ),
        _judged(
            "Most of the clustering comes when only the regularization still falls",
            "share of VICReg's gain in held-out NCC by digit that comes after its invariance term "
            "has made 90 % of its fall, less one half > 0",
            after,
        ),
    ]


def _judged(
    claim: str, criterion: str, effect: Mapping[int, float], *, percent: bool = True
) -> Finding:
    values = np.array([value for value in effect.values() if math.isfinite(value)])
    if not len(values):
        return Finding(claim, criterion, "not measured", UNTESTABLE)
    mean = float(values.mean())
    unit, scale = (" points", 100) if percent else ("", 1)
    shown = f"{scale * mean:+.1f}{unit}" if percent else f"{mean:+.2f}"
    if len(values) > 1:
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
        spread = f"{scale * values.min():+.1f} to {scale * values.max():+.1f}" if percent else (
            f"{values.min():+.2f} to {values.max():+.2f}"
        )  # fmt: skip
        shown += f" ({spread} over {len(values)} seeds)"
        holds = bool((values > 0).all()) and mean > 2 * error
    else:
        shown += " (one seed)"
        holds = mean > 0
    return Finding(claim, criterion, shown, REPRODUCED if holds else NOT)


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, ties by their mean rank; NaN where one side does not vary."""
    x, y = (_ranks(np.asarray(values, dtype=float)) for values in (a, b))
    if not np.isfinite(b).all() or x.std() == 0 or y.std() == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])
