r"""Pooled within-class scatter matrix, mergeable exactly.

Around the class means::

    S = sum_c sum_{z in c} (z - mu_c) (z - mu_c)^T        [D, D]

Two such matrices of disjoint data merge like the scatter of class moments do (Chan, Golub, LeVeque,
1979): with ``d_c`` the difference of the two means of class c::

    S = S_a + S_b + sum_c (n_a n_b / (n_a + n_b))_c d_c d_c^T

so a batch is one Gram matrix: of its rows around their class means in the batch, and of one scaled
row ``d_c`` per class that it touches. Only the upper triangle is computed. With a single class S is
the total scatter, and S of coarser classes follows from the fine ones without the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sslkernels._gate import gated
from sslkernels.passes.scatter import scatter_update
from sslkernels.statistics import _rows
from sslkernels.statistics._state import check_state, copied, kept, load_state
from sslkernels.statistics.class_moments import ClassMoments, class_moments


@gated
class PooledScatter:
    """Class moments and the pooled within-class scatter matrix; D x D in float64.

    One pass over data in batches serves the spectrum of the within-class and the total covariance
    and NC1. When only NC1 is wanted and there are fewer classes than columns, a second pass with
    :class:`NeuralCollapsePass` is cheaper and needs no D x D matrix.

    Attributes:
        moments: the :class:`ClassMoments` of the same rows.
        matrix: float64 [D, D], the scatter S.
        covariance: float64 [D, D], S / N.

    Example:
        >>> import torch, sslkernels as ssk
        >>> z = torch.tensor([[0., 0.], [2., 0.], [5., 1.], [5., 3.]])
        >>> s = ssk.PooledScatter.empty(2, 2).update(z, torch.tensor([0, 0, 1, 1]))
        >>> s.covariance.tolist(), s.total().covariance[0].round(decimals=6).tolist()
        ([[0.5, 0.0], [0.0, 0.5]], [4.5, 2.0])
    """

    def __init__(self, moments: ClassMoments, upper: torch.Tensor) -> None:
        self.moments = moments
        # What lies below the diagonal means nothing.
        self._upper = kept(upper, "upper", torch.float64, [moments.dim, moments.dim])

    @classmethod
    def empty(
        cls,
        num_classes: int,
        dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> PooledScatter:
        """The scatter of no data, to be updated. Arguments as :meth:`ClassMoments.empty`."""
        moments = ClassMoments.empty(num_classes, dim, device=device, dtype=dtype)
        return cls(moments, torch.zeros(dim, dim, dtype=torch.float64, device=device))

    @property
    def num_rows(self) -> int:
        return int(self.moments.counts.sum())

    @property
    def matrix(self) -> torch.Tensor:
        return self._upper.triu() + self._upper.triu(1).T

    @property
    def covariance(self) -> torch.Tensor:
        return self.matrix / self.num_rows if self.num_rows else self.matrix * torch.nan

    def update(self, z: Any, labels: Any = None, *, ignore_index: int = -100) -> PooledScatter:
        """Add a batch, in place, and return ``self``.

        Args:
            z: [N, D] embeddings: fp16, bf16, fp32 or fp64, any strides.
            labels: [N] integers in ``[0, num_classes)`` or ``ignore_index``; may be left out when
                there is one class.
            ignore_index: rows with this label are skipped.

        Raises:
            ValueError: wrong shape or device, or a label out of range, naming its row. Nothing has
                been added then.
            TypeError: wrong dtype.
        """
        m = self.moments
        if labels is None:
            if m.num_classes > 1:
                raise ValueError(f"labels: needed for {m.num_classes} classes")
            labels = torch.zeros(len(z), dtype=torch.int64, device=m.device)
        rows, classes = _rows.checked(z, labels, m.num_classes, ignore_index)
        _rows.fits(rows, m.dim, m.device)
        touched, local = classes.unique(return_inverse=True)
        if len(touched) and touched[0] < 0:
            touched, local = touched[1:], local - 1
        if not len(touched):
            return self
        batch = class_moments(rows, local, len(touched), ignore_index=-1)
        assert isinstance(batch, ClassMoments)
        own = batch.centers()
        _add_weighted(self._upper, m.counts[touched], batch.counts, own - m.centers()[touched])
        scatter_update(rows, local, own, self._upper)
        m.update(rows, classes, ignore_index=-1)
        return self

    def merge(self, other: PooledScatter) -> PooledScatter:
        """Add the scatter of other data over the same classes, in place, and return ``self``."""
        if not isinstance(other, PooledScatter):
            raise TypeError(f"other: expected PooledScatter, got {type(other).__name__}")
        before = self.moments.state_dict()
        self.moments.merge(other.moments)
        fresh = (other.moments.counts > 0).nonzero().squeeze(1)
        _add_weighted(
            self._upper,
            before["counts"][fresh],
            other.moments.counts[fresh],
            other.moments.centers()[fresh] - before["mean"][fresh],
        )
        self._upper += other._upper
        return self

    def all_reduce(self, group: Any = None) -> PooledScatter:
        """Merge the scatter of all ranks of a ``torch.distributed`` group, on every rank."""
        import torch.distributed as dist

        before = self.moments.state_dict()
        self.moments.all_reduce(group)
        filled = (before["counts"] > 0).nonzero().squeeze(1)
        moved = before["mean"][filled] - self.moments.centers()[filled]
        add_gram(self._upper, moved * before["counts"][filled].double().sqrt().unsqueeze(1))
        dist.all_reduce(self._upper, group=group)
        return self

    def coarsen(self, parents: Any, num_classes: int | None = None) -> PooledScatter:
        """The pooled scatter of coarser classes, without the data.

        Arguments as :meth:`ClassMoments.coarsen`.
        """
        m = self.moments
        coarse = m.coarsen(parents, num_classes)
        filled = (m.counts > 0).nonzero().squeeze(1)
        moved = m.centers()[filled] - coarse.centers()[m._parents(parents)[filled]]
        upper = copied(self._upper)
        add_gram(upper, moved * m.counts[filled].double().sqrt().unsqueeze(1))
        return PooledScatter(coarse, upper)

    def total(self) -> PooledScatter:
        """The scatter of all rows around their one mean."""
        return self.coarsen(torch.zeros_like(self.moments.counts), 1)

    def within(self, m: ClassMoments) -> PooledScatter:
        """The pooled scatter of other classes of the same rows, without the data.

        What lies between the means in ``m`` is taken away from the scatter around the one mean: the
        result is right to a few float64 eps of that, not of its own size.

        Args:
            m: :class:`ClassMoments` of the very rows in here.

        Raises:
            ValueError: it holds another number of rows, or other columns.
        """
        if m.dim != self.moments.dim or int(m.counts.sum()) != self.num_rows:
            raise ValueError(
                f"m: expected moments of the {self.num_rows} rows of {self.moments.dim} columns, "
                f"got {int(m.counts.sum())} of {m.dim}"
            )
        upper = self.total()._upper
        filled = (m.counts > 0).nonzero().squeeze(1)
        n, means = m.counts[filled].double(), m.centers()[filled]
        if len(filled):
            anchor = means[:1]
            d = means - anchor
            d = d - (n @ d) / n.sum()
            between = torch.zeros_like(upper)
            add_gram(between, d * n.sqrt().unsqueeze(1))
            upper -= between
        return PooledScatter(m, upper)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of the state: that of the moments, and ``scatter`` (its upper triangle)."""
        return {**self.moments.state_dict(), "scatter": self._upper.triu()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> PooledScatter:
        """Take over a saved state of the same shape; nothing changes if it does not fit."""
        scatter = {"scatter": self._upper}
        check_state(state, scatter)
        self.moments.load_state_dict(state)
        load_state(state, scatter)
        return self


def _add_weighted(
    upper: torch.Tensor, n_a: torch.Tensor, n_b: torch.Tensor, d: torch.Tensor
) -> None:
    """Add ``sum_c n_a n_b / (n_a + n_b) d_c d_c^T`` over the classes that both sides hold."""
    both = n_a > 0
    n_a, n_b, d = n_a[both].double(), n_b[both].double(), d[both]
    if len(d):
        add_gram(upper, d * (n_a * n_b / (n_a + n_b)).sqrt().unsqueeze(1))


def add_gram(upper: torch.Tensor, x: torch.Tensor) -> None:
    """``upper += x^T x`` on and above the diagonal; x [N, D] in float64."""
    one_class = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    origin = x.new_zeros(1, x.shape[1])
    scatter_update(x, one_class, origin, upper)
