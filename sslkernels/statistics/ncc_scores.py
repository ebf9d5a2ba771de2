r"""Nearest class-center (NCC) accuracy from every side: top-k, per class, leave-one-out.

All of it follows from where the own class y of a row z stands among the centers::

    rank(z) = #{c : (||z - mu_c||^2, c) < (||z - mu_y||^2, y)}       ties to the lowest class

a row is right among the top k when rank < k. Leaving the row out of its own class mean, n_y rows,
moves that center away from it and no other::

    mu_y' = (n_y mu_y - z) / (n_y - 1)        z - mu_y' = (z - mu_y) n_y / (n_y - 1)

so its own squared distance is scaled by (n_y / (n_y - 1))^2, exactly, without a second set of
means. A row that is alone in its class leaves an empty class, which is never predicted: it counts
as wrong.

One rows-x-centers pass by tiles, ``class_projections``, nothing sorted by distance. Comparisons
that the rounding of its products could turn are made again from float64 differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from sslkernels import _checks
from sslkernels._gate import gated
from sslkernels.passes.class_projections import class_projections
from sslkernels.passes.nearest_center import nearest_center
from sslkernels.statistics import _rows
from sslkernels.statistics._sums import Sums
from sslkernels.statistics.class_moments import ClassMoments


class NCCScores(NamedTuple):
    """Shares of the labelled rows; rows that hold NaN or infinity count as wrong.

    Attributes:
        top_k: float64 [len(top_k)], for each k the share of rows whose class is among the k
            nearest centers; NaN if no row is labelled.
        per_class: float64 [C], the share of each class whose nearest center is its own; NaN for
            classes without rows.
        leave_one_out: float64 0-d, the share of rows whose nearest center is that of their class
            when they are left out of its mean; None if the centers were given as an array.
    """

    top_k: torch.Tensor
    per_class: torch.Tensor
    leave_one_out: torch.Tensor | None


@gated
def ncc_scores(
    z: Any,
    labels: Any,
    centers: Any,
    *,
    top_k: Sequence[int] = (1, 5),
    ignore_index: int = -100,
) -> NCCScores:
    """Top-k, per-class and leave-one-out accuracy of nearest class centers, in one pass.

    Args:
        z: [N, D] embeddings, tensor or NumPy array: fp16, bf16, fp32 or fp64, any strides.
        labels: [N] integers in ``[0, C)`` or ``ignore_index``.
        centers: :class:`ClassMoments`, whose float64 means are used, or [C, D] centers. A center
            that is not finite throughout is an empty class and is never predicted. The
            leave-one-out share takes ClassMoments of the very rows in ``z``, and means nothing for
            other rows.
        top_k: the k of interest; 1 is :func:`ncc_accuracy`.
        ignore_index: rows with this label are skipped.

    Raises:
        ValueError: wrong shape or device, or a label out of range, naming its first row and value.
        TypeError: wrong dtype.

    For data that comes in batches use :class:`NCCScoresPass`.

    Example:
        >>> import torch, sslkernels as ssk
        >>> z, labels = torch.tensor([[0.], [4.], [5.], [9.]]), torch.tensor([0, 0, 1, 1])
        >>> scores = ssk.ncc_scores(z, labels, ssk.class_moments(z, labels, 2), top_k=(1, 2))
        >>> scores.top_k.tolist(), scores.per_class.tolist(), float(scores.leave_one_out)
        ([1.0, 1.0], [1.0, 1.0], 0.5)
    """
    second = NCCScoresPass(centers, top_k=top_k).update(z, labels, ignore_index=ignore_index)
    return _rows.results(second.compute(), z)


@gated
class NCCScoresPass(Sums):
    """:func:`ncc_scores` in batches; passes over disjoint rows merge, save and load.

    State: C (K + 2) counts for K values of k.

    Args:
        centers, top_k: as in :func:`ncc_scores`.
    """

    def __init__(self, centers: Any, *, top_k: Sequence[int] = (1, 5)) -> None:
        self._top_k = [_checks.positive_int(k, "top_k") for k in top_k]
        self._counts = centers.counts if isinstance(centers, ClassMoments) else None
        if isinstance(centers, ClassMoments):
            self._centers = centers.centers()
        else:
            given = _checks.embeddings(_checks.as_tensor(centers, "centers"), "centers")
            self._centers = given.double()
        self._centers = self._centers.contiguous()
        device = self._centers.device
        size = len(self._centers)
        super().__init__(
            rows=torch.zeros(size, dtype=torch.int64, device=device),
            hits=torch.zeros(size, len(self._top_k) + 2, dtype=torch.int64, device=device),
        )

    def update(self, z: Any, labels: Any, *, ignore_index: int = -100) -> NCCScoresPass:
        """Add a batch and return ``self``. Arguments and errors as in :func:`ncc_scores`."""
        rows, classes = _rows.checked(z, labels, len(self._centers), ignore_index)
        _rows.fits(rows, self._centers.shape[1], self._centers.device)
        size = len(self._centers)
        if self._counts is None and set(self._top_k) == {1}:
            # Who is nearest is known sooner than how many are nearer.
            found = nearest_center(rows, self._centers, True)
            self.add(classes, (found != classes) * size, torch.zeros_like(found, dtype=torch.bool))
            return self
        for x, c in _rows.chunks(rows, classes, size):
            rank, alone, _ = class_projections(x, c, self._centers, self._counts, False)
            self.add(c, rank, alone)
        return self

    def add(self, classes: torch.Tensor, rank: torch.Tensor, alone: torch.Tensor) -> None:
        """Count what the pass ``class_projections`` has found of rows of ``classes``."""
        limits = torch.tensor([1, *self._top_k], device=rank.device).clamp(max=len(self._centers))
        right = torch.cat([rank.unsqueeze(1) < limits, alone.unsqueeze(1)], 1)
        used = classes >= 0
        c = classes[used]
        self._sums["rows"].index_add_(0, c, torch.ones_like(c))
        self._sums["hits"].index_add_(0, c, right[used].long())

    @property
    def rows(self) -> torch.Tensor:
        """int64 [C]: the rows of each class so far."""
        return self._sums["rows"]

    def compute(self) -> NCCScores:
        """The shares of all rows so far."""
        rows, hits = self._sums["rows"], self._sums["hits"]
        shares = hits.sum(0).double() / rows.sum()
        return NCCScores(
            shares[1:-1],
            hits[:, 0].double() / rows,
            shares[-1] if self._counts is not None else None,
        )
