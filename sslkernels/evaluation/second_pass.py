"""The second reading: rows against the class means that the first has found.

One rows-x-centers product per labeling serves NCC (ranks, classes, leave-one-out) and directional
CDNV. The scatter within classes is summed once, around the means of the labeling b that leaves the
least of it; that of the others follows from it and from the means::

    T = W_b + B_b        W_k = T - B_k        B_k = sum_c n_c (mu_c - g) (mu_c - g)^T

Nothing cancels in T. W_k is off by what the means are: summed in float32 over short runs of rows
around a shift, about 1e-8 of T. For a coarser form of b it is W_b plus scatter among means, a sum
again. A labeling that leaves rows unlabelled has a T of its own: its scatter is summed on its own.
So is that of every labeling where rows are few beside the columns, and many eigenvalues zero: it
costs less than the eigenvalues do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sslkernels.evaluation.first_pass import FirstPass
from sslkernels.evaluation.labelings import Labeling
from sslkernels.evaluation.parts import Part, Parts
from sslkernels.evaluation.rows import Rows
from sslkernels.evaluation.settings import Settings
from sslkernels.evaluation.sums import FewShotHits, Sample, ScatterSums, tightest
from sslkernels.numerics.means import all_distances
from sslkernels.statistics.class_moments import ClassMoments
from sslkernels.statistics.class_projections import ClassProjectionsPass
from sslkernels.statistics.ncc_scores import NCCScoresPass
from sslkernels.statistics.neural_collapse import Disagreements, NeuralCollapsePass
from sslkernels.statistics.pooled_scatter import PooledScatter

_FEW = 4  # rows per column
_SCATTER = 4096  # columns up to which a scatter that nobody asked for is kept: 128 MiB
_TABLES = 8 << 20  # distances between centers that are kept, of all labelings together: 64 MiB


class TrainPass(Parts):
    """Sums over the training rows.

    Args:
        num_rows: of all training rows, on all ranks, bad ones included.
        classifiers: ``{labeling: (weight, bias)}`` for NC3 and NC4.

    Few-shot centers of labelings without test labels classify training rows that were not drawn.
    """

    def __init__(
        self,
        labelings: Sequence[Labeling],
        first: FirstPass,
        num_rows: int,
        settings: Settings,
        classifiers: Mapping[str, tuple[Any, Any]],
    ) -> None:
        self._labelings, self._ignore = labelings, settings.ignore_index
        self.moments, self.everything = first.moments(), first.everything()
        self._between = _distances(self.moments)
        self.projections = [
            ClassProjectionsPass(m, top_k=settings.top_k, directional=settings.directional)
            for m in self.moments
        ]
        self.disagreements = {
            k: Disagreements(self.moments[k], *classifiers[labels.name])
            for k, labels in enumerate(labelings)
            if labels.name in classifiers
        }
        sizes = [labels.num_classes for labels in labelings]
        self.scattered = settings.spectrum or _scatter_is_cheaper(self.everything.dim, sizes)
        self.collapse = [
            NeuralCollapsePass(m, weight=classifiers.get(labels.name, (None, None))[0])
            for m, labels in zip(self.moments, labelings, strict=True)
            if not self.scattered
        ]
        self._base: int | None = None
        self._scatters: dict[int, ScatterSums] = {}
        if self.scattered:
            self._choose_scatters()
        self.sample = Sample(num_rows, self.everything, settings)
        untested = [k for k, labels in enumerate(labelings) if not labels.tested]
        self.few_shot = FewShotHits(first, settings, untested, training=True)
        parts: dict[str, Part] = {"sample": self.sample, "few_shot": self.few_shot}
        for name, items in (
            ("projections", dict(enumerate(self.projections))),
            ("disagreements", self.disagreements),
            ("collapse", dict(enumerate(self.collapse))),
            ("scatter", self._scatters),
        ):
            parts |= {f"{name}.{k}": part for k, part in items.items()}
        super().__init__(**parts)

    def _choose_scatters(self) -> None:
        rows = int(self.everything.counts[0])
        counts = [int(m.counts.sum()) for m in self.moments]
        complete = [k for k, count in enumerate(counts) if count == rows]
        if complete:
            base = complete[tightest([self.moments[k] for k in complete])]
            self._base, self._scatters[base] = base, ScatterSums(self.moments[base])
        else:
            self._scatters[-1] = ScatterSums(self.everything)
        few = rows <= _FEW * self.everything.dim
        for k, count in enumerate(counts):
            nested = self._base is not None and self._labelings[k].finer == self._base
            if count != rows or (few and not nested):
                self._scatters[k] = ScatterSums(self.moments[k])

    def update(self, rows: Rows) -> None:
        for k in range(len(self.moments)):
            classes = rows.classes[k].masked_fill(rows.classes[k] == self._ignore, -1)
            self.projections[k].add(rows.z, classes, self._between[k])
            if k in self.disagreements:
                self.disagreements[k].update(rows.z, classes)
            if self.collapse:
                self.collapse[k].update(rows.z, classes, ignore_index=-1)
            if k in self._scatters:
                self._scatters[k].update(rows.z, classes)
        if -1 in self._scatters:
            self._scatters[-1].update(
                rows.z, torch.zeros(len(rows.z), dtype=torch.int64, device=rows.z.device)
            )
        self.sample.update(rows)
        self.few_shot.update(rows)

    def complete(self, k: int) -> bool:
        """Whether labeling ``k`` gives every row a class."""
        return int(self.moments[k].counts.sum()) == int(self.everything.counts.sum())

    def total(self) -> PooledScatter:
        """The scatter of all rows around their mean."""
        if self._base is None:
            return PooledScatter(self.everything, self._scatters[-1].upper)
        return self._summed(self._base).total()

    def within(self, k: int, total: PooledScatter) -> PooledScatter:
        """The scatter within the classes of labeling ``k``, given that of all rows."""
        labels = self._labelings[k]
        if k in self._scatters:
            return self._summed(k)
        if self._base is not None and labels.finer == self._base:
            assert labels.parents is not None
            parents = torch.from_numpy(labels.parents)
            return self._summed(self._base).coarsen(parents, labels.num_classes)
        return total.within(self.moments[k])

    def _summed(self, k: int) -> PooledScatter:
        return PooledScatter(self.moments[k], self._scatters[k].upper)


def _scatter_is_cheaper(dim: int, sizes: Sequence[int]) -> bool:
    """Whether NC1 of all labelings is cheaper from one D x D scatter than from products of the rows
    with the axes of each labeling's means. At D = C = 1000 the scatter takes half as long."""
    return dim <= _SCATTER and dim <= 2 * sum(min(size, dim) for size in sizes)


def _distances(moments: Sequence[ClassMoments]) -> list[torch.Tensor | None]:
    """Those between the class means of each labeling, as long as there is room: every chunk of
    rows needs them."""
    room = _TABLES
    tables: list[torch.Tensor | None] = []
    for m in moments:
        room -= m.num_classes**2
        tables.append(all_distances(m.centers()) if room >= 0 else None)
    return tables


class TestPass(Parts):
    """Sums over the test rows, classified with the centers of the training rows."""

    def __init__(
        self,
        labelings: Sequence[Labeling],
        moments: Sequence[ClassMoments],
        first: FirstPass,
        settings: Settings,
    ) -> None:
        self._ignore = settings.ignore_index
        self.scores = {
            k: NCCScoresPass(moments[k].centers(), top_k=settings.top_k)
            for k, labels in enumerate(labelings)
            if labels.tested
        }
        self.few_shot = FewShotHits(first, settings, list(self.scores), training=False)
        super().__init__(
            **{f"scores.{k}": part for k, part in self.scores.items()}, few_shot=self.few_shot
        )

    def update(self, rows: Rows) -> None:
        for k, scores in self.scores.items():
            scores.update(rows.z, rows.classes[k], ignore_index=self._ignore)
        self.few_shot.update(rows)
