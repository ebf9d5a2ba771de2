"""Sums of the second reading that no public statistic keeps on its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from sslkernels.evaluation.first_pass import FirstPass, places
from sslkernels.evaluation.rows import Rows, unit
from sslkernels.evaluation.settings import Settings
from sslkernels.passes.nearest_center import nearest_center
from sslkernels.passes.scatter import scatter_update
from sslkernels.statistics._sums import Sums
from sslkernels.statistics.class_moments import ClassMoments
from sslkernels.statistics.few_shot import FewShot

_SAMPLE = 0x73616D70  # keeps the draw of sample rows apart from the few-shot draws


class ScatterSums(Sums):
    """The scatter of rows around known class means: the upper triangle, float64 [D, D]."""

    def __init__(self, m: ClassMoments) -> None:
        self._centers = m.centers()
        super().__init__(upper=self._centers.new_zeros(m.dim, m.dim))

    @property
    def upper(self) -> torch.Tensor:
        return self._sums["upper"]

    def update(self, z: torch.Tensor, classes: torch.Tensor) -> None:
        """Add rows [n, D] of ``classes`` [n], -1 where they count nowhere."""
        scatter_update(z, classes, self._centers, self.upper)


class Sample(Sums):
    """The same rows of the data, drawn by seed, on however many ranks they are read."""

    def __init__(self, num_rows: int, m: ClassMoments, settings: Settings) -> None:
        draw = np.random.default_rng((settings.seed, _SAMPLE))
        size = min(settings.uniformity_rows, num_rows)
        self.index = np.sort(draw.choice(num_rows, size, replace=False, shuffle=False))
        super().__init__(
            rows=torch.zeros(size, m.dim, dtype=m.dtype, device=m.device),
            seen=torch.zeros(size, dtype=torch.int64, device=m.device),
        )

    def update(self, rows: Rows) -> None:
        at = places(rows.index, self.index)
        slots = torch.from_numpy(np.searchsorted(self.index, rows.index[at.numpy()]))
        slots = slots.to(rows.z.device)
        self._sums["rows"][slots] = unit(rows.z[at.to(rows.z.device)])
        self._sums["seen"][slots] = 1

    @property
    def rows(self) -> torch.Tensor:
        """Unit rows, in float64 if the rows are; those that were left out as bad are missing."""
        return self._sums["rows"][self._sums["seen"] > 0]


class FewShotHits(Sums):
    """Right answers of nearest centers made from a few rows per class.

    Args:
        labelings: the positions of the labelings to measure.
        training: the rows are those that the draws came from; drawn rows are not classified.
    """

    def __init__(
        self, first: FirstPass, settings: Settings, labelings: Collection[int], *, training: bool
    ) -> None:
        self._ignore = settings.ignore_index
        self._draws = {key: rows for key, rows in first.draws.items() if key[0] in labelings}
        self._centers = [first.shot_centers[key].centers() for key in self._draws]
        self._training = training
        size = len(self._draws)
        device = first.unit.mean.device
        super().__init__(
            hits=torch.zeros(size, dtype=torch.int64, device=device),
            asked=torch.zeros(size, dtype=torch.int64, device=device),
        )

    def update(self, rows: Rows) -> None:
        for i, ((k, _, _), drawn) in enumerate(self._draws.items()):
            labels = rows.classes[k]
            asked = labels != self._ignore
            if self._training:
                asked[places(rows.index, drawn).to(asked.device)] = False
            if asked.any():
                found = nearest_center(rows.z, self._centers[i], True)
                self._sums["hits"][i] += ((found == labels) & asked).sum()
                self._sums["asked"][i] += asked.sum()

    def results(self, labeling: int) -> dict[int, FewShot]:
        """By number of shots."""
        shares = self._sums["hits"].double() / self._sums["asked"]
        by_shots: dict[int, list[torch.Tensor]] = {}
        for (k, shots, _), share in zip(self._draws, shares, strict=True):
            if k == labeling:
                by_shots.setdefault(shots, []).append(share)
        return {shots: _summary(torch.stack(found)) for shots, found in by_shots.items()}


def _summary(shares: torch.Tensor) -> FewShot:
    std = shares.std() if len(shares) > 1 else shares.new_full((), torch.nan)
    return FewShot(shares.mean(), std, shares)


def tightest(moments: Sequence[ClassMoments]) -> int:
    """The position of the moments with the least scatter within classes."""
    return min(range(len(moments)), key=lambda k: float(moments[k].m2.sum()))
