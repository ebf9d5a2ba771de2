"""What a monitor accumulates of one layer, and the table of statistics that it records."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sslkernels.evaluation.rows import unit
from sslkernels.monitor.ridge import Ridge, RidgeProbe
from sslkernels.passes.class_projections import class_projections
from sslkernels.statistics import (
    ClassMoments,
    DirectionalCDNVPass,
    NCCScoresPass,
    NeuralCollapsePass,
    PooledScatter,
    cdnv,
    spectrum,
)
from sslkernels.statistics.class_moments import update_all

IGNORE = -100
SPLITS = ("train", "test")

# Recorded of a layer whatever the labeling, and of each labeling: (statistic, splits).
OF_LAYER = (
    ("rankme", ("train",)),
    ("effective_rank", ("train",)),
    ("variance", ("train",)),
)
OF_LABELING = (
    ("ncc", SPLITS),
    ("ncc_unit", SPLITS),
    ("linear_probe", SPLITS),
    ("cdnv", SPLITS),
    ("directional_cdnv", ("train",)),
    ("nc1", ("train",)),
    ("within_variance", ("train",)),
)

Row = tuple[str, str, str, float]  # labeling, split, statistic, value


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
        self._centers = [m.centers() for m in first.raw]
        self.scores = [NCCScoresPass(m, top_k=(1,)) for m in first.raw]
        self.unit = [NCCScoresPass(m.centers(), top_k=(1,)) for m in first.unit]
        ridge = Ridge(first.total)
        self.probes: list[RidgeProbe | None] = [  # None where some rows have no class
            ridge.fit(m) if int(m.counts.sum()) == first.total.num_rows else None for m in first.raw
        ]
        self.probe = Hits(size, device)
        self.directional = [DirectionalCDNVPass(m) for m in first.raw] if training else []
        self.collapse = [NeuralCollapsePass(m) for m in first.raw] if training else []
        dtype = first.raw[0].dtype
        self.moments = [
            ClassMoments.empty(m.num_classes, m.dim, device=device, dtype=dtype) for m in first.raw
        ]

    def update(self, z: Tensor, classes: Tensor) -> None:
        short = unit(z)
        for k, given in enumerate(classes):
            labels = given.masked_fill(given == IGNORE, -1)
            if self._training:
                # One rows-x-centers product serves NCC and directional CDNV.
                rank, alone, spread = class_projections(
                    z, labels, self._centers[k], self._first.raw[k].counts, True
                )
                self.scores[k].add(labels, rank, alone)
                self.directional[k].add(labels, spread)
                self.collapse[k].update(z, labels, ignore_index=-1)
            else:
                self.scores[k].update(z, given, ignore_index=IGNORE)
            self.unit[k].update(short, given, ignore_index=IGNORE)
            probe = self.probes[k]
            if probe is not None:
                self.probe.add(k, probe.predict(z), given)
        if not self._training:
            update_all(self.moments, z, classes, ignore_index=IGNORE)

    def all_reduce(self, group: Any) -> None:
        import torch.distributed as dist

        for part in (*self.scores, *self.unit, *self.directional, *self.collapse):
            part.all_reduce(group)
        if not self._training:
            for m in self.moments:
                m.all_reduce(group)
        dist.all_reduce(self.probe.counts, group=group)

    def value(self, k: int, statistic: str) -> float | None:
        """One number of labeling ``k``; None where it is not taken of these rows."""
        m = self._first.raw[k] if self._training else self.moments[k]
        if statistic == "ncc":
            return float(self.scores[k].compute().top_k[0])
        if statistic == "ncc_unit":
            return float(self.unit[k].compute().top_k[0])
        if statistic == "linear_probe":
            return None if self.probes[k] is None else self.probe.share(k)
        if statistic == "cdnv":
            return float(cdnv(m))
        if statistic == "directional_cdnv":
            return float(self.directional[k].compute())
        if statistic == "nc1":
            nc1 = self.collapse[k].compute().nc1
            return math.nan if nc1 is None else float(nc1)
        if statistic == "within_variance":
            return float(m.m2.sum() / m.counts.sum())
        raise KeyError(statistic)


def rows(
    names: Sequence[str],
    first: FirstSums,
    train: SecondSums,
    test: SecondSums | None,
    tested: Collection[str],
) -> Iterator[Row]:
    """Every number of one layer; ``tested`` are the labelings that test rows have labels of."""
    found = spectrum(first.total)
    of_layer = {
        "rankme": float(found.rankme),
        "effective_rank": float(found.effective_rank),
        "variance": float(first.total.moments.m2[0] / first.total.num_rows),
    }
    for statistic, _ in OF_LAYER:
        yield "", "train", statistic, of_layer[statistic]
    for k, name in enumerate(names):
        for statistic, splits in OF_LABELING:
            for split, second in (("train", train), ("test", test)):
                if second is None or split not in splits:
                    continue
                if split == "test" and name not in tested:
                    continue
                value = second.value(k, statistic)
                if value is not None:
                    yield name, split, statistic, value


def lost(names: Sequence[str], tested: Collection[str]) -> Iterator[Row]:
    """NaN for every number of a layer whose embeddings were not finite."""
    for statistic, _ in OF_LAYER:
        yield "", "train", statistic, math.nan
    for name in names:
        for statistic, splits in OF_LABELING:
            for split in splits:
                if split == "train" or name in tested:
                    yield name, split, statistic, math.nan
