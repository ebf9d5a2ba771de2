r"""Counts, means and within-class scatter of labelled embeddings, mergeable exactly.

For the rows of class c: ``n_c``, ``mu_c = sum z / n_c`` and ``M2_c = sum ||z - mu_c||^2``. Two such
triples of disjoint data merge without another look at the data (Chan, Golub, LeVeque, "Updating
formulae and a pairwise algorithm for computing sample variances", 1979), with ``d = mu_b - mu_a``::

    n = n_a + n_b      mu = mu_a + d n_b / n      M2 = M2_a + M2_b + ||d||^2 n_a n_b / n

so superclasses, shards, ranks and checkpoints are sums of what is already known. Means and scatter
are kept in float64 whatever the dtype of the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sslkernels import _checks
from sslkernels._gate import gated
from sslkernels.numerics.views import result_dtype
from sslkernels.passes.class_moments import bad_label, class_moments_update
from sslkernels.statistics import _rows
from sslkernels.statistics._state import kept, load_state


@gated
class ClassMoments:
    """Counts, means and scatter of each class; what :func:`class_moments` returns.

    Reading a result reports what went wrong on a GPU meanwhile: a label out of range raises its
    ValueError there, because ``update`` does not wait for the device.

    Attributes:
        counts: int64 [C], rows of each class.
        means: [C, D], float32 (float64 for float64 embeddings); rows of empty classes are NaN.
        m2: float64 [C], sum over the class of ``||z - mean||^2``.
        variances: float64 [C], ``m2 / counts``: the biased variance that CDNV is defined with;
            NaN for empty classes.

    Example:
        >>> import torch, sslkernels as ssk
        >>> m = ssk.ClassMoments.empty(2, 3)
        >>> m = m.update(torch.tensor([[1., 0., 0.], [3., 0., 0.]]), torch.tensor([0, 0]))
        >>> m.counts.tolist(), m.means[0].tolist(), m.m2.tolist()
        ([2, 0], [2.0, 0.0, 0.0], [2.0, 0.0])
    """

    def __init__(
        self, counts: torch.Tensor, mean: torch.Tensor, m2: torch.Tensor, dtype: torch.dtype
    ) -> None:
        classes, dim = mean.shape
        self._counts = kept(counts, "counts", torch.int64, [classes])
        # Rows of empty classes are zero.
        self._mean = kept(mean, "mean", torch.float64, [classes, dim])
        self._m2 = kept(m2, "m2", torch.float64, [classes])
        self.dtype = dtype
        self._reports: list[tuple[str, torch.Tensor, int]] = []

    @classmethod
    def empty(
        cls,
        num_classes: int,
        dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> ClassMoments:
        """Moments of no data, to be updated.

        Args:
            num_classes: C, at least 1.
            dim: D, at least 1.
            device: where the state lives and where embeddings must be.
            dtype: of ``means``: float32 or float64. The state itself is float64.
        """
        c, d = _checks.positive_int(num_classes, "num_classes"), _checks.positive_int(dim, "dim")
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
        return cls(
            torch.zeros(c, dtype=torch.int64, device=device),
            torch.zeros(c, d, dtype=torch.float64, device=device),
            torch.zeros(c, dtype=torch.float64, device=device),
            dtype,
        )

    @property
    def num_classes(self) -> int:
        return self._mean.shape[0]

    @property
    def dim(self) -> int:
        return self._mean.shape[1]

    @property
    def device(self) -> torch.device:
        return self._mean.device

    @property
    def counts(self) -> torch.Tensor:
        self._raise_reported()
        return self._counts

    @property
    def m2(self) -> torch.Tensor:
        self._raise_reported()
        return self._m2

    @property
    def means(self) -> torch.Tensor:
        return self.centers().to(self.dtype)

    @property
    def variances(self) -> torch.Tensor:
        return self.variance(ddof=0)

    def centers(self) -> torch.Tensor:
        """The means in float64 [C, D], as they are kept; rows of empty classes are NaN."""
        return self._mean.masked_fill((self.counts == 0).unsqueeze(1), torch.nan)

    def variance(self, *, ddof: int = 0) -> torch.Tensor:
        """``m2 / (counts - ddof)``, float64 [C]; NaN for classes of at most ``ddof`` rows."""
        free = self.counts - ddof
        return torch.where(free > 0, self._m2 / free, torch.nan)

    def update(self, z: Any, labels: Any, *, ignore_index: int = -100) -> ClassMoments:
        """Add a batch, in place, and return ``self``.

        Args:
            z: [N, D] embeddings: fp16, bf16, fp32 or fp64, any strides.
            labels: [N] integers in ``[0, num_classes)`` or ``ignore_index``.
            ignore_index: rows with this label are skipped.

        Raises:
            ValueError: wrong shape or device, or a label out of range, naming its row. On the CPU
                nothing has been added then.
            TypeError: wrong dtype.
        """
        update_all([self], z, labels, ignore_index=ignore_index)
        return self

    def merge(self, other: ClassMoments) -> ClassMoments:
        """Add the moments of other data over the same classes, in place, and return ``self``."""
        if not isinstance(other, ClassMoments):
            raise TypeError(f"other: expected ClassMoments, got {type(other).__name__}")
        if other._mean.shape != self._mean.shape:
            raise ValueError(
                f"other: expected {self.num_classes} classes of dimension {self.dim}, "
                f"got {other.num_classes} of {other.dim}"
            )
        if other.device != self.device:
            raise ValueError(f"other: is on {other.device}, self is on {self.device}")
        n_b = other.counts
        n = self.counts + n_b
        share = n_b.double() / n.clamp(min=1)
        delta = other._mean - self._mean
        # A class that one side lacks is taken from the other as it is, infinities included.
        spread = delta.square().sum(1) * (self._counts * share)
        both = (self._counts > 0) & (n_b > 0)
        self._m2 += other._m2 + spread.masked_fill(~both, 0.0)
        moved = torch.where(both.unsqueeze(1), self._mean + delta * share.unsqueeze(1), other._mean)
        self._mean.copy_(torch.where((n_b > 0).unsqueeze(1), moved, self._mean))
        self._counts.copy_(n)
        return self

    def coarsen(self, parents: Any, num_classes: int | None = None) -> ClassMoments:
        """Moments of superclasses, exactly, without another look at the data.

        Args:
            parents: [C] integers: the superclass of each class.
            num_classes: how many superclasses; by default the largest parent + 1.

        Example:
            >>> import torch, sslkernels as ssk
            >>> z, labels = torch.randn(60, 5), torch.arange(60) % 4
            >>> fine = ssk.class_moments(z, labels, 4)
            >>> coarse = fine.coarsen([0, 0, 1, 1])
            >>> torch.allclose(coarse.m2, ssk.class_moments(z, labels // 2, 2).m2)
            True
        """
        p = self._parents(parents)
        low, high = int(p.min()), int(p.max())
        size = high + 1 if num_classes is None else _checks.positive_int(num_classes, "num_classes")
        if low < 0 or high >= size:
            raise ValueError(
                f"parents: expected values in [0, {size}), got {low if low < 0 else high}"
            )
        out = ClassMoments.empty(size, self.dim, device=self.device, dtype=self.dtype)
        n = self.counts
        out._counts.index_add_(0, p, n)
        # Around the mean of the last of its own classes, so that a common offset costs no digits.
        filled = n > 0
        of = filled.nonzero().squeeze(1)
        last = torch.full_like(out._counts, -1).scatter_reduce_(0, p[of], of, "amax")
        anchor = torch.zeros_like(out._mean)
        anchor[last >= 0] = self._mean[last[last >= 0]]
        d = torch.where(filled.unsqueeze(1), self._mean - anchor[p], 0.0)
        total = torch.zeros_like(out._mean).index_add_(0, p, d * n.unsqueeze(1))
        shift = total / out._counts.clamp(min=1).unsqueeze(1)
        out._mean.copy_(anchor + shift)
        spread = (d - shift[p]).square().sum(1) * n
        out._m2.index_add_(0, p, self._m2 + spread)
        return out

    def all_reduce(self, group: Any = None) -> ClassMoments:
        """Merge the moments of all ranks of a ``torch.distributed`` group, in place, on every rank.

        Two rounds of summation: counts and means first, then the scatter around the common mean.

        Raises:
            ValueError: on every rank, if they differ in classes or columns, or one has bad labels.
        """
        import torch.distributed as dist

        from sslkernels.distributed.agreement import agree_on_shapes

        agree_on_shapes(
            group,
            "class moments",
            lambda: {"counts": self.counts, "mean": self._mean, "m2": self._m2},
        )
        mine = self.counts.clone()
        # Rank 0's means as the origin keep a common offset out of the weighted sums.
        origin = self._mean.clone()
        dist.broadcast(origin, dist.get_global_rank(group, 0) if group else 0, group=group)
        d = torch.where((mine > 0).unsqueeze(1), self._mean - origin, 0.0)
        total = d * mine.unsqueeze(1)
        counts = mine.clone()
        dist.all_reduce(counts, group=group)
        dist.all_reduce(total, group=group)
        shift = total / counts.clamp(min=1).unsqueeze(1)
        m2 = self._m2 + (d - shift).square().sum(1) * mine
        dist.all_reduce(m2, group=group)
        self._counts.copy_(counts)
        self._m2.copy_(m2)
        self._mean.copy_(torch.where((counts > 0).unsqueeze(1), origin + shift, 0.0))
        return self

    def to(self, device: torch.device | str) -> ClassMoments:
        """A copy of the moments on another device."""
        out = ClassMoments.empty(self.num_classes, self.dim, device=device, dtype=self.dtype)
        return out.load_state_dict(self.state_dict())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of the state: ``counts``, ``mean`` (float64, zero where empty) and ``m2``."""
        return {
            "counts": self.counts.clone(),
            "mean": self._mean.clone(),
            "m2": self._m2.clone(),
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> ClassMoments:
        """Take over a saved state of the same shape; nothing changes if it does not fit."""
        load_state(state, {"counts": self._counts, "mean": self._mean, "m2": self._m2})
        self._reports.clear()
        return self

    def _parents(self, given: Any) -> torch.Tensor:
        """A superclass for every class, int64 [C]."""
        p = _checks.as_tensor(
            np.asarray(given) if isinstance(given, (list, tuple)) else given, "parents"
        )
        if p.dtype not in _checks.INT_DTYPES or p.shape != (self.num_classes,):
            raise ValueError(
                f"parents: expected {self.num_classes} integers, "
                f"got shape {list(p.shape)} of {str(p.dtype)[6:]}"
            )
        return _checks.as_int64(p, "parents").to(self.device)

    def __repr__(self) -> str:
        return f"ClassMoments(num_classes={self.num_classes}, dim={self.dim}, {self.device})"

    def _raise_reported(self) -> None:
        """Raise for the first bad label that a device reported since the last look."""
        reports, self._reports = self._reports, []
        for name, report, ignore_index in reports:
            row, value = report.tolist()
            if row >= 0:
                raise bad_label(name, row, value, self.num_classes, ignore_index)


@gated
def update_all(
    moments: Sequence[ClassMoments], z: Any, labels: Any, *, ignore_index: int = -100
) -> None:
    """Add one batch to the moments of K labelings, reading ``z`` once.

    Args:
        moments: K ClassMoments of the same dimension, one per labeling.
        z: [N, D] embeddings.
        labels: [K, N] integers ([N] also when K = 1).
        ignore_index: rows with this label are skipped, per labeling.
    """
    z = _checks.embeddings(_checks.as_tensor(z, "z"))
    _merge_rows(moments, z, _checks.as_tensor(labels, "labels"), ignore_index)


def _merge_rows(
    moments: Sequence[ClassMoments], z: torch.Tensor, labels: torch.Tensor, ignore_index: int
) -> None:
    rows = _checks.labelings(labels, len(moments), z)
    for m in moments:
        if m.dim != z.shape[1]:
            raise ValueError(f"z: expected {m.dim} columns, got shape {list(z.shape)}")
        if m.device != z.device:
            raise ValueError(f"z: is on {z.device}, the moments are on {m.device}")
    states = [t for m in moments for t in (m._counts, m._mean, m._m2)]
    reports = class_moments_update(z, rows, states, ignore_index)
    for k, report in enumerate(reports if len(reports) else ()):
        name = "labels" if len(moments) == 1 else f"labels[{k}]"
        moments[k]._reports.append((name, report, ignore_index))


@gated
def class_moments(
    z: Any, labels: Any, num_classes: int | Sequence[int], *, ignore_index: int = -100
) -> ClassMoments | tuple[ClassMoments, ...]:
    """Counts, means and scatter of every class, for one or several labelings, in one pass over z.

    Args:
        z: [N, D] embeddings, tensor or NumPy array: fp16, bf16, fp32 or fp64, any strides.
        labels: [N] integers, or [K, N] for K labelings of the same rows.
        num_classes: C; or K ints for K labelings.
        ignore_index: rows with this label are skipped.

    Returns:
        :class:`ClassMoments`; for K labelings, a tuple of K.

    Raises:
        ValueError: wrong shape or device, or a label out of range, naming its first row and value.
        TypeError: wrong dtype.

    Accumulation: float32 within short runs of rows around a shift near the class, float64 across
    runs (float64 throughout for float64 embeddings). A row that holds NaN or infinity poisons the
    moments of its own class only.

    Example:
        >>> import torch, sslkernels as ssk
        >>> z = torch.tensor([[0., 0.], [2., 0.], [5., 5.]])
        >>> m = ssk.class_moments(z, torch.tensor([0, 0, 1]), 3)
        >>> m.counts.tolist(), m.variances.tolist()
        ([2, 1, 0], [1.0, 0.0, nan])
        >>> fine, coarse = ssk.class_moments(z, torch.tensor([[0, 0, 1], [0, 0, 0]]), [3, 1])
        >>> coarse.counts.tolist()
        [3]
    """
    z = _checks.embeddings(_checks.as_tensor(z, "z"))
    labels = _checks.as_tensor(labels, "labels")
    several = not isinstance(num_classes, int) and hasattr(num_classes, "__len__")
    if several != (labels.ndim == 2):
        raise ValueError(
            "num_classes: expected one int for labels of shape [N], K ints for [K, N]; "
            f"got {num_classes!r} with labels of shape {list(labels.shape)}"
        )
    sizes = list(num_classes) if several else [num_classes]  # type: ignore[arg-type]
    if several and len(sizes) != labels.shape[0]:
        raise ValueError(
            f"num_classes: expected {labels.shape[0]} ints, one per labeling, got {len(sizes)}"
        )
    dtype = result_dtype(z.dtype)
    moments = tuple(
        ClassMoments.empty(
            _checks.positive_int(c, "num_classes"), z.shape[1], device=z.device, dtype=dtype
        )
        for c in sizes
    )
    _merge_rows(moments, z, labels, ignore_index)
    return moments if several else moments[0]


@gated
def class_means(z: Any, labels: Any, num_classes: int, *, ignore_index: int = -100) -> Any:
    """The mean of every class, [C, D]; rows of empty classes are NaN.

    Arguments and errors as in :func:`class_moments`. A NumPy array gives a NumPy array.

    Example:
        >>> import numpy as np, sslkernels as ssk
        >>> ssk.class_means(np.array([[1.0, 3.0], [3.0, 5.0]]), np.array([0, 0]), 1)
        array([[2., 4.]])
    """
    _checks.positive_int(num_classes, "num_classes")
    m = class_moments(z, labels, num_classes, ignore_index=ignore_index)
    assert isinstance(m, ClassMoments)
    return _rows.result(m.means, z)
