r"""Mean standard deviation per dimension of normalised embeddings: the collapse measure of SimSiam.

Chen, He, "Exploring simple Siamese representation learning" (CVPR 2021, arXiv 2011.10566)::

    mean over dimensions of std(z / ||z||)        0 when collapsed, about 1 / sqrt(D) when healthy

The standard deviation has divisor N. A row of zeros has no direction and stays zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sslkernels import _checks
from sslkernels._gate import gated
from sslkernels.passes.unit_moments import unit_moments
from sslkernels.statistics import _rows
from sslkernels.statistics._state import check_state, kept, load_state


@gated
def normalized_std(z: Any) -> Any:
    """Mean over dimensions of the standard deviation of ``z / ||z||``, in one pass.

    Args:
        z: [N, D] embeddings, tensor or NumPy array: fp16, bf16, fp32 or fp64, any strides. For
            data that comes in batches use :class:`NormalizedMoments`.

    Returns:
        float64 0-d tensor (a NumPy scalar if ``z`` is a NumPy array); NaN without rows.

    Raises:
        ValueError: wrong shape.
        TypeError: wrong dtype.

    Example:
        >>> import torch, sslkernels as ssk
        >>> float(ssk.normalized_std(torch.tensor([[3., 0.], [-5., 0.]])))
        0.5
    """
    rows = _checks.embeddings(_checks.as_tensor(z, "z"))
    moments = NormalizedMoments.empty(rows.shape[1], device=rows.device).update(rows)
    return _rows.result(moments.std, z)


@gated
class NormalizedMoments:
    """Mean and scatter per dimension of ``z / ||z||``; merges exactly, like class moments.

    Attributes:
        count: int64 0-d.
        mean: float64 [D].
        m2: float64 [D], sum of squared differences to the mean.
        std: float64 0-d, mean over dimensions of ``sqrt(m2 / count)``; NaN without rows.

    Example:
        >>> import torch, sslkernels as ssk
        >>> m = ssk.NormalizedMoments.empty(2).update(torch.tensor([[3., 0.]]))
        >>> float(m.update(torch.tensor([[-5., 0.]])).std)
        0.5
    """

    def __init__(self, count: torch.Tensor, mean: torch.Tensor, m2: torch.Tensor) -> None:
        self.count = kept(count, "count", torch.int64, [])
        self.mean = kept(mean, "mean", torch.float64, [mean.numel()])
        self.m2 = kept(m2, "m2", torch.float64, [mean.numel()])

    @classmethod
    def empty(cls, dim: int, *, device: torch.device | str | None = None) -> NormalizedMoments:
        d = _checks.positive_int(dim, "dim")
        return cls(
            torch.zeros((), dtype=torch.int64, device=device),
            torch.zeros(d, dtype=torch.float64, device=device),
            torch.zeros(d, dtype=torch.float64, device=device),
        )

    @property
    def std(self) -> torch.Tensor:
        return (self.m2 / self.count).sqrt().mean()

    def update(self, z: Any) -> NormalizedMoments:
        """Add a batch [N, D], in place, and return ``self``."""
        rows = _checks.embeddings(_checks.as_tensor(z, "z"))
        _rows.fits(rows, len(self.mean), self.mean.device)
        if len(rows):
            mean, m2 = unit_moments(rows)
            self._add(self.count.new_tensor(len(rows)), mean, m2)
        return self

    def merge(self, other: NormalizedMoments) -> NormalizedMoments:
        """Add the moments of other data, in place, and return ``self``."""
        if not isinstance(other, NormalizedMoments):
            raise TypeError(f"other: expected NormalizedMoments, got {type(other).__name__}")
        check_state(other.state_dict(), self.state_dict(), "other")
        self._add(other.count, other.mean, other.m2)
        return self

    def all_reduce(self, group: Any = None) -> NormalizedMoments:
        """Merge the moments of all ranks of a ``torch.distributed`` group, on every rank.

        Raises:
            ValueError: on every rank, if their columns differ.
        """
        import torch.distributed as dist

        from sslkernels.distributed.agreement import agree_on_shapes

        agree_on_shapes(group, "normalized moments", lambda: {"mean": self.mean})
        count, mean = self.count.clone(), self.mean * self.count
        dist.all_reduce(count, group=group)
        dist.all_reduce(mean, group=group)
        mean /= count.clamp(min=1)  # entries of unit vectors: sums lose no digits that matter
        self.m2 += (self.mean - mean).square() * self.count
        dist.all_reduce(self.m2, group=group)
        self.count.copy_(count)
        self.mean.copy_(mean)
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of ``count``, ``mean`` and ``m2``."""
        return {"count": self.count.clone(), "mean": self.mean.clone(), "m2": self.m2.clone()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> NormalizedMoments:
        """Take over a saved state of the same shape; nothing changes if it does not fit."""
        load_state(state, {"count": self.count, "mean": self.mean, "m2": self.m2})
        return self

    def _add(self, count: torch.Tensor, mean: torch.Tensor, m2: torch.Tensor) -> None:
        """Chan, Golub, LeVeque, 1979; see class_moments.py."""
        total = self.count + count
        share = count.double() / total.clamp(min=1)
        delta = mean - self.mean
        self.m2 += m2 + delta.square() * (self.count * share)
        self.mean += delta * share
        self.count += count
