"""NCC scores and directional CDNV together: both follow from one product of rows and class means.

``(z - mu_y) . (mu_j - mu_y)`` says how far a row is on its way from its own class mean to another:
beyond half of the way it is nearer to that mean (:mod:`~sslkernels.statistics.ncc_scores`), and its
square, summed over the rows of a class, is the variance along the line
(:mod:`~sslkernels.statistics.directional_cdnv`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from sslkernels._gate import gated
from sslkernels.numerics.means import all_distances
from sslkernels.passes.class_projections import class_projections as class_projections_pass
from sslkernels.statistics import _rows
from sslkernels.statistics._sums import Sums, class_moments_of
from sslkernels.statistics.class_moments import ClassMoments
from sslkernels.statistics.directional_cdnv import DirectionalCDNVPass
from sslkernels.statistics.ncc_scores import NCCScores, NCCScoresPass

_TABLE = 8 << 20  # distances between means that are kept from batch to batch: 64 MiB


class ClassProjections(NamedTuple):
    """Attributes:
    scores: as :func:`sslkernels.ncc_scores`.
    directional_cdnv: float64 0-d, as :func:`sslkernels.directional_cdnv`; None if it was left out.
    """

    scores: NCCScores
    directional_cdnv: torch.Tensor | None


@gated
def class_projections(
    z: Any,
    labels: Any,
    m: ClassMoments,
    *,
    top_k: Sequence[int] = (1, 5),
    ignore_index: int = -100,
) -> ClassProjections:
    """NCC scores and directional CDNV of the same rows, in half the time of one after the other.

    Args:
        z: [N, D] embeddings, tensor or NumPy array: fp16, bf16, fp32 or fp64, any strides.
        labels: [N] integers in ``[0, num_classes)`` or ``ignore_index``.
        m: :class:`ClassMoments` of the same rows.
        top_k: the k of interest for NCC among the k nearest class means.
        ignore_index: rows with this label are skipped.

    Returns:
        :class:`ClassProjections`; of NumPy arrays (and scalars) if ``z`` is one.

    Raises:
        ValueError: wrong shape or device, or a label out of range, naming its first row and value.
        TypeError: wrong dtype, or ``m`` is not ClassMoments.

    For data that comes in batches use :class:`ClassProjectionsPass`.

    Example:
        >>> import torch, sslkernels as ssk
        >>> z, labels = torch.tensor([[0.], [4.], [5.], [9.]]), torch.tensor([0, 0, 1, 1])
        >>> found = ssk.class_projections(z, labels, ssk.class_moments(z, labels, 2))
        >>> found.scores.top_k.tolist(), round(float(found.directional_cdnv), 4)
        ([1.0, 1.0], 0.16)
    """
    both = ClassProjectionsPass(m, top_k=top_k).update(z, labels, ignore_index=ignore_index)
    scores, line = both.compute()
    assert line is not None
    return ClassProjections(_rows.results(scores, z), _rows.result(line, z))


@gated
class ClassProjectionsPass(Sums):
    """:func:`class_projections` in batches; passes over disjoint rows merge, save and load.

    State: that of :class:`NCCScoresPass` and of :class:`DirectionalCDNVPass`.

    Args:
        m, top_k: as in :func:`class_projections`.
        directional: measure directional CDNV besides the scores.

    Attributes:
        scores, directional: the two passes, which hold the sums; the second may be None.
    """

    def __init__(
        self, m: ClassMoments, *, top_k: Sequence[int] = (1, 5), directional: bool = True
    ) -> None:
        self._moments = class_moments_of(m)
        self._centers = m.centers()
        self.scores = NCCScoresPass(m, top_k=top_k)
        self.directional = DirectionalCDNVPass(m) if directional else None
        line = self.directional._sums if self.directional else {}
        super().__init__(**self.scores._sums, **line)

    def update(self, z: Any, labels: Any, *, ignore_index: int = -100) -> ClassProjectionsPass:
        """Add a batch and return ``self``. Arguments and errors as :meth:`ClassMoments.update`."""
        rows, classes = _rows.checked(z, labels, len(self._centers), ignore_index)
        _rows.fits(rows, self._centers.shape[1], self._centers.device)
        for x, c in _rows.chunks(rows, classes, len(self._centers)):
            self.add(x, c, self._between)
        return self

    def add(
        self, rows: torch.Tensor, classes: torch.Tensor, between: torch.Tensor | None = None
    ) -> None:
        """Add checked rows [n, D] of ``classes`` int64 [n], -1 for rows to skip.

        Args:
            between: the distances between the class means, if they are at hand.
        """
        rank, alone, spread = class_projections_pass(
            rows,
            classes,
            self._centers,
            self._moments.counts,
            self.directional is not None,
            between,
        )
        self.scores.add(classes, rank, alone)
        if self.directional is not None:
            self.directional.add(classes, spread)

    def compute(self) -> ClassProjections:
        """Both of all rows so far."""
        line = self.directional.compute() if self.directional else None
        return ClassProjections(self.scores.compute(), line)

    @functools.cached_property
    def _between(self) -> torch.Tensor | None:
        return all_distances(self._centers) if len(self._centers) ** 2 <= _TABLE else None
