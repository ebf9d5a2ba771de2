"""A second view of the training rows, read beside them: alignment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from sslkernels.data import Chunk, DataError, Source
from sslkernels.evaluation.parts import Parts
from sslkernels.evaluation.rows import Rows
from sslkernels.numerics.unit_rows import normalized
from sslkernels.statistics._sums import Sums


class PairedViews(Source):
    """Rows [x, y] of 2 D columns from two sources of the same rows and chunks."""

    def __init__(self, x: Source, y: Source) -> None:
        self._x, self._y = x, y
        self.name, self.rows, self.offset = x.name, x.rows, x.offset
        self.dim = None if x.dim is None else 2 * x.dim
        self.dtype = x.dtype
        self.labels, self.skipped = {}, []

    def chunks(self, rows: int, first: int = 0) -> Iterator[Chunk]:
        for x, y in zip(self._x.chunks(rows, first), self._y.chunks(rows, first), strict=True):
            if x.z.shape != y.z.shape or x.start != y.start:
                raise DataError(
                    f"{self._y.name}: rows {y.start} to {y.start + len(y.z)} do not face those of "
                    f"{self._x.name}; two views come in equal shards"
                )
            yield Chunk(x.start, torch.cat([x.z, y.z.to(x.z.dtype)], 1))

    def num_chunks(self, rows: int) -> int | None:
        return self._x.num_chunks(rows)

    def part(self, rank: int, world: int, rows: int) -> Source:
        return PairedViews(self._x.part(rank, world, rows), self._y.part(rank, world, rows))

    def identity(self) -> dict[str, Any]:
        return {"views": [self._x.identity(), self._y.identity()]}

    def locate(self, row: int) -> str:
        return self._x.locate(row)


class ViewPass(Parts):
    """The sum of squared gaps between two views on the unit sphere."""

    def __init__(self, device: torch.device) -> None:
        self._gaps = Sums(
            total=torch.zeros((), dtype=torch.float64, device=device),
            rows=torch.zeros((), dtype=torch.int64, device=device),
        )
        super().__init__(gaps=self._gaps)

    def update(self, rows: Rows) -> None:
        for pairs in rows.z.split(2048):
            x, y = (normalized(view) for view in pairs.chunk(2, dim=1))
            self._gaps._sums["total"] += (x - y).square().sum()
        self._gaps._sums["rows"] += len(rows.z)

    @property
    def alignment(self) -> float:
        return float(self._gaps._sums["total"] / self._gaps._sums["rows"])
