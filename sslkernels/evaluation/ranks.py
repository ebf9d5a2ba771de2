"""The ranks of a distributed evaluation, or the one process of a plain one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sslkernels.evaluation.parts import Part

T = TypeVar("T")


class RankLost(RuntimeError):
    """A collective has failed: another rank has died or left."""


class Ranks:
    """``group``: None for one process, ``"world"``, or a ``torch.distributed`` process group."""

    def __init__(self, group: Any = None) -> None:
        self._group = None if group == "world" else group
        self.rank, self.size = 0, 1
        if group is not None:
            import torch.distributed as dist

            if not dist.is_initialized():
                raise ValueError("group: torch.distributed is not initialised")
            self.rank, self.size = dist.get_rank(self._group), dist.get_world_size(self._group)

    def together(self, work: Callable[[], T]) -> T:
        """``work()`` on every rank; if it fails on one, all fail with the error of the first.

        Without this the others would wait in the next collective for a rank that has left.
        """
        if self.size == 1:
            return work()
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        failures = self.gather(failure)
        first = next((other for other in failures if other is not None), None)
        if first is not None:
            raise failure if failure is not None else first
        return result  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in order."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with _collective():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def reduce(self, part: Part) -> None:
        """Merge an accumulator over all ranks."""
        if self.size > 1:
            with _collective():
                part.all_reduce(self._group)


@contextlib.contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split(". ")[0].splitlines()[0]
        raise RankLost(f"another rank has left: {reason}") from error
