r"""Directional CDNV: the within-class variance along the lines between class means.

With ``u_ij`` the unit vector from mu_i to mu_j, ``d_ij = ||mu_j - mu_i||`` and the biased class
covariance Sigma_i (arXiv 2506.04411)::

    V_ij = u_ij^T Sigma_i u_ij / d_ij^2
         = mean over z in class i of ((z - mu_i) . (mu_j - mu_i))^2 / d_ij^4

averaged over the ordered pairs i != j of non-empty classes. CDNV divides the whole variance of a
class by d_ij^2; this divides only what lies along the direction that separates the two classes.

No covariance is formed. One rows-x-centers pass gives all pairs: with g the mean of the means,
``r = z - mu_i`` and ``v_j = mu_j - g``, the projection is ``r . v_j - r . v_i``. Rows are taken
sorted by class, so a tile holds few classes and is reduced at once: to one number per class for
the mean, by the pass ``class_projections``; to C x C for the matrix, here, in float64.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from sslkernels import _checks
from sslkernels._gate import gated
from sslkernels.numerics.means import around_their_mean, squared_distances
from sslkernels.passes.class_projections import class_projections
from sslkernels.statistics import _rows
from sslkernels.statistics._sums import Sums, class_moments_of
from sslkernels.statistics.class_moments import ClassMoments

_COLUMNS = 1024  # centers per tile: 16 MB of float64 projections for a block of rows


@gated
def directional_cdnv(
    z: Any,
    labels: Any,
    m: ClassMoments,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Any:
    """Directional CDNV of labelled embeddings, in one pass over them.

    Args:
        z: [N, D] embeddings, tensor or NumPy array: fp16, bf16, fp32 or fp64, any strides.
        labels: [N] integers in ``[0, num_classes)`` or ``ignore_index``.
        m: :class:`ClassMoments` of the same rows. Those of other rows measure the scatter of ``z``
            around, and relative to, the class means in ``m``.
        reduction: ``"mean"`` over ordered pairs of distinct classes, with C numbers of state;
            ``"none"`` for the matrix, C x C in float64.
        ignore_index: rows with this label are skipped.

    Returns:
        float64 0-d, NaN without a pair; or [C, C], row i the class whose variance is measured, NaN
        on the diagonal and where a class is empty. NaN also for two classes with one and the same
        mean: no line joins them. A NumPy array (or scalar) if ``z`` is one.

    Raises:
        ValueError: wrong shape or device, unknown reduction, or a label out of range, naming its
            first row and value.
        TypeError: wrong dtype, or ``m`` is not ClassMoments.

    For data that comes in batches use :class:`DirectionalCDNVPass`.

    Example:
        >>> import torch, sslkernels as ssk
        >>> z = torch.tensor([[-1., 5.], [1., -5.], [9., 0.], [11., 0.]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> m = ssk.class_moments(z, labels, 2)
        >>> round(float(ssk.directional_cdnv(z, labels, m)), 6), round(float(ssk.cdnv(m)), 6)
        (0.01, 0.135)
    """
    second = DirectionalCDNVPass(m, reduction=reduction)
    return _rows.result(second.update(z, labels, ignore_index=ignore_index).compute(), z)


@gated
class DirectionalCDNVPass(Sums):
    """Directional CDNV from a second pass, in batches, over rows whose class moments are known.

    State: 2 C sums, or C + C^2 for ``reduction="none"``. Passes over disjoint rows merge
    (``merge``, ``all_reduce``), save and load. Batches much smaller than C cost up to twice.

    Args:
        m, reduction: as in :func:`directional_cdnv`.

    Example:
        >>> import torch, sslkernels as ssk
        >>> z, labels = torch.randn(90, 8), torch.arange(90) % 3
        >>> m = ssk.class_moments(z, labels, 3)
        >>> second = ssk.DirectionalCDNVPass(m)
        >>> for rows in torch.arange(90).split(30):
        ...     second = second.update(z[rows], labels[rows])
        >>> torch.allclose(second.compute(), ssk.directional_cdnv(z, labels, m))
        True
    """

    def __init__(self, m: ClassMoments, *, reduction: str = "mean") -> None:
        self.moments = class_moments_of(m)
        self._matrix = _checks.one_of(reduction, "reduction", ("mean", "none")) == "none"
        self._filled = (m.counts > 0).nonzero().squeeze(1)
        self._centers = m.centers()
        means = self._centers[self._filled]
        self._poisoned = not bool(means.isfinite().all())
        # The position of each class among the filled ones, -1 where it is empty.
        self._position = torch.full((m.num_classes,), -1, dtype=torch.int64, device=m.device)
        self._position[self._filled] = torch.arange(len(means), device=m.device)
        shape = (len(means), len(means)) if self._matrix else (len(means),)
        super().__init__(
            counts=torch.zeros(len(means), dtype=torch.int64, device=m.device),
            sums=means.new_zeros(shape),
        )

    def update(self, z: Any, labels: Any, *, ignore_index: int = -100) -> DirectionalCDNVPass:
        """Add a batch and return ``self``. Arguments and errors as :meth:`ClassMoments.update`.

        Rows of classes without a mean are skipped: they enter no pair.
        """
        rows, classes = _rows.checked(z, labels, self.moments.num_classes, ignore_index)
        _rows.fits(rows, self.moments.dim, self.moments.device)
        if self._matrix:
            self._add_matrix(rows, self._positions(classes))
            return self
        for x, c in _rows.chunks(rows, classes, len(self._centers)):
            self.add(c, class_projections(x, c, self._centers, None, True)[2])
        return self

    def _positions(self, classes: torch.Tensor) -> torch.Tensor:
        """Among the filled classes; -1 for rows to skip, of empty classes too."""
        return self._position[classes.clamp(min=0)].masked_fill(classes < 0, -1)

    def add(self, classes: torch.Tensor, spread: torch.Tensor) -> None:
        """Add what the pass ``class_projections`` has found of rows of ``classes``; for the mean.

        Args:
            classes: int64 [n], -1 for rows to skip.
            spread: float64 [C].
        """
        position = self._positions(classes)
        counts = torch.bincount(position[position >= 0], minlength=len(self._filled))
        self._sums["counts"] += counts
        if not self._poisoned:
            self._sums["sums"] += spread[self._filled]
        else:  # the pairs with a broken mean are NaN, and every class is in one
            self._sums["sums"].masked_fill_(counts > 0, torch.nan)

    def _add_matrix(self, rows: torch.Tensor, position: torch.Tensor) -> None:
        for x, p in _rows.sorted_blocks(rows, position):
            held, member = p.unique_consecutive(return_inverse=True)
            one_hot = torch.nn.functional.one_hot(member, len(held)).T.double()
            self._sums["counts"][held] += one_hot.sum(1).long()
            residuals = x - self._centers[self._filled[p]]
            at_own = (residuals * self._around[p]).sum(1)
            broken = ~at_own.isfinite()
            poisoned = one_hot @ broken.double() > 0
            for start in range(0, len(self._around), _COLUMNS):
                tile = slice(start, start + _COLUMNS)
                squares = _squared_projections(residuals, at_own, self._around[tile])
                if broken.any():
                    squares[broken] = 0.0  # 0 x NaN in the product would reach other classes
                ratios = (one_hot @ squares) / self._distances(held, tile).square()
                ratios[poisoned] = torch.nan
                ratios[held.unsqueeze(1) == self._columns(tile)] = 0.0
                self._sums["sums"][held, tile] += ratios

    def compute(self) -> torch.Tensor:
        """float64 0-d, or [C, C] for ``reduction="none"``."""
        counts, sums = self._sums["counts"], self._sums["sums"]
        seen, size = (counts > 0).nonzero().squeeze(1), len(self._filled)
        if not self._matrix:
            pairs = len(seen) * (size - 1)
            return (
                (sums[seen] / counts[seen]).sum() / pairs if pairs > 0 else sums.sum() * torch.nan
            )
        c = self.moments.num_classes
        out = sums.new_full((c, c), torch.nan)
        square = sums[seen] / counts[seen].unsqueeze(1)
        out[self._filled[seen].unsqueeze(1), self._filled] = square
        return out.fill_diagonal_(torch.nan)

    @functools.cached_property
    def _around(self) -> torch.Tensor:
        return around_their_mean(self._centers[self._filled])

    def _columns(self, tile: slice) -> torch.Tensor:
        return torch.arange(len(self._around), device=self._around.device)[tile]

    def _distances(self, held: torch.Tensor, tile: slice) -> torch.Tensor:
        """Squared distances [held, tile] between means; NaN where the means are the same."""
        d2 = squared_distances(self._around[held], self._around[tile])
        return d2.masked_fill_(d2 == 0, torch.nan)


def _squared_projections(
    residuals: torch.Tensor, at_own: torch.Tensor, centers: torch.Tensor
) -> torch.Tensor:
    """float64 [B, C]: ``(r . v_j - r . v_own)^2``; residuals [B, D], at_own [B], centers [C, D]."""
    return torch.addmm(at_own.unsqueeze(1), residuals, centers.T, beta=-1.0).square_()
