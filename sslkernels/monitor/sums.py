"""What a monitor accumulates of one layer, and the table of statistics that it records."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sslkernels.evaluation import scalars
from sslkernels.evaluation.rows import unit
from sslkernels.evaluation.scalars import Statistic, measured
from sslkernels.monitor.ridge import Ridge, RidgeProbe
from sslkernels.statistics import (
    ClassMoments,
    ClassProjectionsPass,
    NCCScoresPass,
    NeuralCollapse,
    NeuralCollapsePass,
    PooledScatter,
    Spectrum,
    spectrum,
)
from sslkernels.statistics.class_moments import update_all

IGNORE = -100

Row = tuple[str, str, str, float]  # labeling, split, statistic, value


@dataclass(frozen=True)
class OfLayer:
    """What the statistics of a layer are made of."""

    total: PooledScatter
    spectrum: Spectrum


@dataclass(frozen=True)
class OfRows:
    """What the statistics of one labeling are made of, on the rows of one split."""

    moments: ClassMoments
    ncc: Tensor
    ncc_unit: Tensor
    probe: float | None  # None where some training rows have no class
    directional: Tensor | None = None  # this and the next of training rows alone
    collapse: NeuralCollapse | None = None


def _on_both(name: str, get: Callable[[OfRows], Any]) -> tuple[Statistic, ...]:
    return Statistic(name, "train", get), Statistic(name, "test", get)


def of_layer() -> tuple[Statistic, ...]:
    """What is recorded of a layer whatever the labeling."""
    return (
        *_monitored(scalars.OF_EMBEDDINGS),
        Statistic("variance", "train", lambda x: x.total.moments.m2[0] / x.total.num_rows),
    )


def of_labeling() -> tuple[Statistic, ...]:
    """What is recorded of each labeling."""
    return (
        *_on_both("ncc", lambda x: x.ncc),
        *_on_both("ncc_unit", lambda x: x.ncc_unit),
        *_on_both("linear_probe", lambda x: x.probe),
        *_monitored(scalars.OF_LABELING),
        Statistic(
            "within_variance", "train", lambda x: x.moments.m2.sum() / x.moments.counts.sum()
        ),
    )


def _monitored(statistics: Sequence[Statistic]) -> Iterator[Statistic]:
    """Those of an evaluation that are recorded as well."""
    return (replace(each, split=split) for each in statistics for split in each.monitored)


class FirstSums:
    """First reading of the training rows of one layer: means, and the scatter of all rows."""

    def __init__(self, sizes: Sequence[int], z: Tensor) -> None:
        wide = torch.float64 if z.dtype == torch.float64 else torch.float32
        where: dict[str, Any] = {"device": z.device, "dtype": wide}
        self.raw = [ClassMoments.empty(c, z.shape[1], **where) for c in sizes]
        self.unit = [ClassMoments.empty(c, z.shape[1], **where) for c in sizes]
        self.total = PooledScatter.empty(1, z.shape[1], **where)

    def update(self, z: Tensor, classes: Tensor) -> None:
        """Add rows [n, D]; classes int64 [K, n]."""
        update_all(self.raw, z, classes, ignore_index=IGNORE)
        update_all(self.unit, unit(z), classes, ignore_index=IGNORE)
        self.total.update(z)

    def all_reduce(self, group: Any) -> None:
        for m in (*self.raw, *self.unit):
            m.all_reduce(group)
        self.total.all_reduce(group)


class Hits:
    """Right answers among asked rows, by labeling."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.counts = torch.zeros(size, 2, dtype=torch.int64, device=device)

    def add(self, k: int, predicted: Tensor, classes: Tensor) -> None:
        asked = classes != IGNORE
        self.counts[k, 0] += ((predicted == classes) & asked).sum()
        self.counts[k, 1] += asked.sum()

    def share(self, k: int) -> float:
        hits, asked = self.counts[k].tolist()
        return hits / asked if asked else math.nan


class SecondSums:
    """Rows of one layer against what the first reading of the training rows has found."""

    def __init__(self, first: FirstSums, *, training: bool) -> None:
        self._first, self._training = first, training
        size, device = len(first.raw), first.total.moments.device
        kind = ClassProjectionsPass if training else NCCScoresPass
        self.raw: list[Any] = [kind(m, top_k=(1,)) for m in first.raw]
        self.unit = [NCCScoresPass(m.centers(), top_k=(1,)) for m in first.unit]
        ridge = Ridge(first.total)
        self.probes: list[RidgeProbe | None] = [  # None where some rows have no class
            ridge.fit(m) if int(m.counts.sum()) == first.total.num_rows else None for m in first.raw
        ]
        self.probe = Hits(size, device)
        self.collapse = [NeuralCollapsePass(m) for m in first.raw] if training else []
        dtype = first.raw[0].dtype
        self.moments = [
            ClassMoments.empty(m.num_classes, m.dim, device=device, dtype=dtype) for m in first.raw
        ]

    def update(self, z: Tensor, classes: Tensor) -> None:
        short = unit(z)
        for k, given in enumerate(classes):
            if self._training:
                # Without a table of distances, which would be kept for every layer and labeling.
                self.raw[k].add(z, given.masked_fill(given == IGNORE, -1))
                self.collapse[k].update(z, given, ignore_index=IGNORE)
            else:
                self.raw[k].update(z, given, ignore_index=IGNORE)
            self.unit[k].update(short, given, ignore_index=IGNORE)
            probe = self.probes[k]
            if probe is not None:
                self.probe.add(k, probe.predict(z), given)
        if not self._training:
            update_all(self.moments, z, classes, ignore_index=IGNORE)

    def all_reduce(self, group: Any) -> None:
        import torch.distributed as dist

        for part in (*self.raw, *self.unit, *self.collapse):
            part.all_reduce(group)
        if not self._training:
            for m in self.moments:
                m.all_reduce(group)
        dist.all_reduce(self.probe.counts, group=group)

    def of(self, k: int) -> OfRows:
        """What the statistics of labeling ``k`` are made of."""
        found = self.raw[k].compute()
        return OfRows(
            moments=self._first.raw[k] if self._training else self.moments[k],
            ncc=(found.scores if self._training else found).top_k[0],
            ncc_unit=self.unit[k].compute().top_k[0],
            probe=None if self.probes[k] is None else self.probe.share(k),
            directional=found.directional_cdnv if self._training else None,
            collapse=self.collapse[k].compute() if self._training else None,
        )


def rows(
    names: Sequence[str],
    first: FirstSums,
    train: SecondSums,
    test: SecondSums | None,
    tested: Collection[str],
) -> Iterator[Row]:
    """Every number of one layer; ``tested`` are the labelings that test rows have labels of."""
    of = OfLayer(first.total, spectrum(first.total))
    yield from _rows("", of_layer(), "train", of)
    for k, name in enumerate(names):
        yield from _rows(name, of_labeling(), "train", train.of(k))
        if test is not None and name in tested:
            yield from _rows(name, of_labeling(), "test", test.of(k))


def _rows(labeling: str, statistics: Sequence[Statistic], split: str, of: Any) -> Iterator[Row]:
    for (_, name), value in measured([s for s in statistics if s.split == split], of).items():
        yield labeling, split, name, float(value)


def lost(names: Sequence[str], tested: Collection[str]) -> Iterator[Row]:
    """NaN for every number of a layer whose embeddings were not finite."""
    for each in of_layer():
        yield "", each.split, each.name, math.nan
    for name in names:
        for each in of_labeling():
            if each.split == "train" or name in tested:
                yield name, each.split, each.name, math.nan
