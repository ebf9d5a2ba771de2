"""The scalar statistics of an evaluation, each declared once.

Results and their rows, CSV and JSON, the tables of terminals, notebooks and pages, and the monitor
read these tables: a new statistic is one row here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from sslkernels.statistics.alignment import uniformity
from sslkernels.statistics.cdnv import cdnv
from sslkernels.statistics.class_moments import ClassMoments
from sslkernels.statistics.neural_collapse import NeuralCollapse
from sslkernels.statistics.normalized_std import NormalizedMoments

if TYPE_CHECKING:
    from sslkernels.evaluation.result import NCC as NCCResult
    from sslkernels.evaluation.result import FewShotResult, SpectrumResult

Values = dict[tuple[str, str], Any]  # (split, name of the statistic) -> number
MISSING = "–"


def number(value: float) -> str:
    """Four significant digits, plain where that is short."""
    if math.isnan(value):
        return MISSING
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:.3e}"


def percent(value: float) -> str:
    return MISSING if math.isnan(value) else f"{100 * value:.2f} %"


def count(value: float) -> str:
    return f"{value:,}"


@dataclass(frozen=True)
class Statistic:
    """One number of a set of embeddings or of a labeling.

    Attributes:
        name: in rows, CSV and JSON, and as an attribute of the result. ``{}`` stands for the keys
            of a family: NCC among the k nearest, for each k.
        split: ``"train"``, ``"test"``, or ``""`` where it means nothing.
        get: the number (or a tensor that holds it) from :class:`OfEmbeddings` or
            :class:`OfLabeling`; None where it was not measured; of a family a dict.
        heading: of its column, with ``{}`` as in ``name``; without one it is in files alone.
        show: the text of a cell.
        table: the title of the table that has the column.
        monitored: the splits on which :class:`EmbeddingMonitor` records it.
    """

    name: str
    split: str
    get: Callable[[Any], Any]
    heading: str = ""
    show: Callable[[float], str] = number
    table: str = ""
    monitored: tuple[str, ...] = ()

    def measured(self, of: Any) -> Values:
        """Its numbers by split and name; none where it was not measured."""
        got = self.get(of)
        found = got if isinstance(got, dict) else {"": got}
        return {
            (self.split, self.name.format(key)): (
                value.item() if isinstance(value, torch.Tensor) else value
            )
            for key, value in found.items()
            if value is not None
        }


def measured(statistics: Sequence[Statistic], of: Any) -> Values:
    """The numbers of all statistics, in order."""
    return {key: value for each in statistics for key, value in each.measured(of).items()}


def columns(
    statistics: Sequence[Statistic], results: Sequence[Any]
) -> dict[str, Callable[[Any], str]]:
    """By heading, what makes a cell of a result; statistics that no result has are left out.

    Of a family the first and the last have a column: a table has place for few, files have all.
    """
    keys = list(dict.fromkeys(key for result in results for key in result.values))
    made: dict[str, Callable[[Any], str]] = {}
    for each in statistics:
        name = re.compile(each.name.replace("{}", "(.*)"))
        same = [(key, name.fullmatch(key[1])) for key in keys if key[0] == each.split]
        members = [(key, match) for key, match in same if match and each.heading]
        for key, match in members if len(members) < 3 else (members[0], members[-1]):
            made[each.heading.format(*match.groups())] = partial(_cell, key, each.show)
    return made


def _cell(key: tuple[str, str], show: Callable[[float], str], result: Any) -> str:
    return show(result.values[key]) if key in result.values else MISSING


@dataclass(frozen=True)
class OfEmbeddings:
    """What the statistics of one set of embeddings are made of."""

    rows: int
    test_rows: int
    dim: int
    bad: Mapping[str, Mapping[str, Any]]
    unit: NormalizedMoments
    sample: torch.Tensor | None  # rows of length 1
    alignment: float | None
    spectrum: SpectrumResult | None


@dataclass(frozen=True)
class OfLabeling:
    """What the statistics of one labeling are made of."""

    num_classes: int
    moments: ClassMoments  # of the training rows
    collapse: NeuralCollapse
    nc4: torch.Tensor | None
    directional: torch.Tensor | None
    train: NCCResult
    test: NCCResult | None
    within: SpectrumResult | None
    few_shot: Mapping[int, FewShotResult]


def _of_spectrum(name: str, heading: str = "", **more: Any) -> Statistic:
    return Statistic(
        name,
        "train",
        lambda x: None if x.spectrum is None else getattr(x.spectrum, name),
        heading,
        table=EMBEDDINGS if heading else "",
        **more,
    )


def _bad_rows(split: str) -> Statistic:
    return Statistic("bad_rows", split, lambda x: x.bad.get(split, {}).get("count") or None)


def _few_shot(x: OfLabeling) -> dict[str, float]:
    return {
        f"{shots}_shot_{name}": getattr(few, name)
        for shots, few in x.few_shot.items()
        for name in ("mean", "std")
    }


def _within(x: OfLabeling) -> dict[str, float]:
    # Without RankMe, which takes the embeddings as they are, whatever the labeling.
    names = ("effective_rank", "participation_ratio", "stable_rank", "alpha")
    return {} if x.within is None else {name: getattr(x.within, name) for name in names}


def _uniformity(x: OfEmbeddings) -> torch.Tensor | None:
    return None if x.sample is None else uniformity(x.sample)


EMBEDDINGS, GEOMETRY = "Embeddings", "Class geometry"
NCC, COLLAPSE = "Nearest class center", "Neural collapse"
TRAIN, BOTH = ("train",), ("train", "test")  # splits of the monitor

# fmt: off
OF_EMBEDDINGS = (
    Statistic("rows", "train", lambda x: x.rows, "rows", count, EMBEDDINGS),
    Statistic("dim", "", lambda x: x.dim, "D", str, EMBEDDINGS),
    Statistic("rows", "test", lambda x: x.test_rows or None),
    *map(_bad_rows, ("train", "test", "views")),
    _of_spectrum("rankme", "\nRankMe", monitored=TRAIN),
    _of_spectrum("effective_rank", "effective\nrank", monitored=TRAIN),
    _of_spectrum("participation_ratio", "particip.\nratio"),
    _of_spectrum("stable_rank"),
    _of_spectrum("alpha", "\nalpha"),
    Statistic("normalized_std", "train", lambda x: x.unit.std, "unit\nstd", number, EMBEDDINGS),
    Statistic("uniformity", "train", _uniformity, "uni-\nformity", number, EMBEDDINGS),
    Statistic("alignment", "train", lambda x: x.alignment, "align-\nment", number, EMBEDDINGS),
)

OF_LABELING = (
    Statistic("classes", "", lambda x: x.num_classes, "classes", count, GEOMETRY),
    Statistic("non_empty_classes", "train", lambda x: (x.moments.counts > 0).sum(),
              "non-empty", count, GEOMETRY),
    Statistic("cdnv", "train", lambda x: cdnv(x.moments), "CDNV", number, GEOMETRY, BOTH),
    Statistic("directional_cdnv", "train", lambda x: x.directional,
              "directional", number, GEOMETRY, TRAIN),
    Statistic("ncc_top{}", "train", lambda x: x.train.top_k, "train\ntop-{}", percent, NCC),
    Statistic("ncc_leave_one_out", "train", lambda x: x.train.leave_one_out,
              "leave-\none-out", percent, NCC),
    Statistic("ncc_top{}", "test", lambda x: x.test and x.test.top_k, "test\ntop-{}", percent, NCC),
    Statistic("nc1", "train", lambda x: x.collapse.nc1, "NC1", number, COLLAPSE, TRAIN),
    Statistic("nc2_norms", "train", lambda x: x.collapse.nc2_norms, "NC2 norms", number, COLLAPSE),
    Statistic("nc2_angles", "train", lambda x: x.collapse.nc2_angles,
              "NC2 angles", number, COLLAPSE),
    Statistic("nc3", "train", lambda x: x.collapse.nc3, "NC3", number, COLLAPSE),
    Statistic("nc4", "train", lambda x: x.nc4, "NC4", percent, COLLAPSE),
    # Of several shots and draws: tables of their own, of means and deviations (report/geometry.py).
    Statistic("ncc_{}", "train", lambda x: {} if x.test else _few_shot(x)),
    Statistic("ncc_{}", "test", lambda x: _few_shot(x) if x.test else {}),
    Statistic("within_{}", "train", _within),
)
# fmt: on
