"""The first reading of the training rows: class moments of every labeling, moments of unit rows,
and the centers of few-shot draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sslkernels.evaluation.labelings import Labeling
from sslkernels.evaluation.parts import Parts
from sslkernels.evaluation.rows import Rows
from sslkernels.evaluation.settings import Settings
from sslkernels.statistics.class_moments import ClassMoments, update_all
from sslkernels.statistics.few_shot import draw
from sslkernels.statistics.normalized_std import NormalizedMoments


class FirstPass(Parts):
    """Everything that the second reading must know.

    A labeling that is a coarser form of another costs nothing here: its moments are merged from
    those at the end. One class of all rows is kept as well, unless a labeling covers all rows.
    """

    def __init__(
        self,
        labelings: Sequence[Labeling],
        dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        settings: Settings,
    ) -> None:
        wide = torch.float64 if dtype == torch.float64 else torch.float32

        def empty(num_classes: int) -> ClassMoments:
            return ClassMoments.empty(num_classes, dim, device=device, dtype=wide)

        self._labelings = labelings
        self._ignore = settings.ignore_index
        self._own = [k for k, labels in enumerate(labelings) if labels.finer is None]
        self._moments = [empty(labelings[k].num_classes) for k in self._own]
        if not any(_covers_all(labels, self._ignore) for labels in labelings):
            self._moments.append(empty(1))
        self.unit = NormalizedMoments.empty(dim, device=device)
        self.draws = few_shot_draws(labelings, settings)
        self.shot_centers = {key: empty(labelings[key[0]].num_classes) for key in self.draws}
        super().__init__(
            **{f"moments.{i}": m for i, m in enumerate(self._moments)},
            unit=self.unit,
            **{f"shots.{i}": m for i, m in enumerate(self.shot_centers.values())},
        )

    def update(self, rows: Rows) -> None:
        classes = rows.classes[self._own]
        if len(self._moments) > len(self._own):
            classes = torch.cat([classes, classes.new_zeros(1, len(rows.z))])
        update_all(self._moments, rows.z, classes, ignore_index=self._ignore)
        self.unit.update(rows.z)
        for key, drawn in self.draws.items():
            at = places(rows.index, drawn).to(rows.z.device)
            if len(at):
                labels = rows.classes[key[0]][at]
                self.shot_centers[key].update(rows.z[at], labels, ignore_index=self._ignore)

    def moments(self) -> list[ClassMoments]:
        """Of every labeling, coarser ones merged from the finer."""
        own = dict(zip(self._own, self._moments, strict=False))
        return [
            own[k]
            if labels.finer is None
            else own[labels.finer].coarsen(torch.from_numpy(labels.parents), labels.num_classes)
            for k, labels in enumerate(self._labelings)
        ]

    def everything(self) -> ClassMoments:
        """All rows as one class."""
        if len(self._moments) > len(self._own):
            return self._moments[-1]
        most = max(self._moments, key=lambda m: int(m.counts.sum()))
        return most.coarsen(torch.zeros_like(most.counts), 1)


Draw = tuple[int, int, int]  # labeling, shots, repeat


def few_shot_draws(labelings: Sequence[Labeling], settings: Settings) -> dict[Draw, np.ndarray]:
    """The ascending rows of every few-shot draw."""
    draws: dict[Draw, np.ndarray] = {}
    for k, labels in enumerate(labelings):
        if labels.train is not None:
            known = np.where(labels.train == settings.ignore_index, -1, labels.train)
            for shots in settings.few_shot:
                for repeat in range(settings.few_shot_repeats):
                    draws[k, shots, repeat] = draw(known, shots, (settings.seed, repeat))
    return draws


def places(index: np.ndarray, wanted: np.ndarray) -> torch.Tensor:
    """Where the ``wanted`` rows stand in ``index``, both ascending; those elsewhere are passed."""
    if not len(index):
        return torch.empty(0, dtype=torch.int64, device="cpu")
    low, high = np.searchsorted(wanted, [index[0], index[-1] + 1])
    here = wanted[low:high]
    at = np.searchsorted(index, here)
    return torch.from_numpy(at[index[at] == here])


def _covers_all(labels: Labeling, ignore_index: int) -> bool:
    if labels.train is None or not labels.whole:
        return False
    return not (labels.train == ignore_index).any()
