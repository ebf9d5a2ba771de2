"""What every second pass keeps: a few tensors that add up over rows, shards and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from sslkernels._gate import gated
from sslkernels.statistics._state import check_state, load_state
from sslkernels.statistics.class_moments import ClassMoments

_Self = TypeVar("_Self", bound="Sums")


@gated
class Sums:
    """Sums over rows whose class centers are known and the same everywhere.

    A second pass over disjoint rows, with the same moments, merges by addition.
    """

    def __init__(self, **sums: torch.Tensor) -> None:
        self._sums = sums

    def merge(self: _Self, other: _Self) -> _Self:
        """Add the sums of other rows, taken with the same moments, in place; return ``self``."""
        if type(other) is not type(self):
            raise TypeError(f"other: expected {type(self).__name__}, got {type(other).__name__}")
        check_state(other._sums, self._sums, "other")
        for name, total in self._sums.items():
            total += other._sums[name]
        return self

    def all_reduce(self: _Self, group: Any = None) -> _Self:
        """Add the sums of all ranks of a ``torch.distributed`` group, in place, on every rank.

        Raises:
            ValueError: on every rank, if their shapes differ.
        """
        import torch.distributed as dist

        from sslkernels.distributed.agreement import agree_on_shapes

        agree_on_shapes(group, type(self).__name__, lambda: self._sums)
        for total in self._sums.values():
            dist.all_reduce(total, group=group)
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of the sums; the moments are saved on their own."""
        return {name: total.clone() for name, total in self._sums.items()}

    def load_state_dict(self: _Self, state: Mapping[str, torch.Tensor]) -> _Self:
        """Take over saved sums of the same shapes; nothing changes if they do not fit."""
        load_state(state, self._sums)
        return self


def class_moments_of(value: Any, name: str = "m") -> ClassMoments:
    if not isinstance(value, ClassMoments):
        raise TypeError(f"{name}: expected ClassMoments, got {type(value).__name__}")
    return value
