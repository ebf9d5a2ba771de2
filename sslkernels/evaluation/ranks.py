"""The ranks of a distributed evaluation, or the one process of a plain one."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from sslkernels.data import DataError
from sslkernels.distributed.agreement import disagreement
from sslkernels.evaluation.parts import Part

T = TypeVar("T")


class RankLost(RuntimeError):
    """A collective has failed: another rank has died or left."""


class RankFailed(RuntimeError):
    """The error of another rank, where it cannot be raised here as what it is."""


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
        failures = self.gather(None if failure is None else _Sent.of(failure))
        for rank, sent in enumerate(failures):
            if sent is not None:
                raise failure if failure is not None else sent.received(rank)
        return result  # type: ignore[return-value]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Compare what must be the same everywhere before sums of ranks are added up.

        Raises:
            DataError: on every rank, if a fact is another one on some rank.
        """
        everyone = self.gather({name: repr(fact) for name, fact in facts.items()})
        if words := disagreement(everyone):
            raise DataError(f"group: {words}")

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


class _Sent(NamedTuple):
    """An error on its way to other ranks: as a pickle, if it has one, and in words."""

    content: bytes | None
    words: str

    @classmethod
    def of(cls, error: Exception) -> _Sent:
        words = type(error).__name__
        # Errors are anybody's classes: their words and their pickles may fail in any way.
        with contextlib.suppress(Exception):
            words = f"{words}: {error}"
        try:
            return cls(pickle.dumps(error), words)
        except Exception:
            return cls(None, words)

    def received(self, rank: int) -> Exception:
        if self.content is not None:
            with contextlib.suppress(Exception):
                error = pickle.loads(self.content)
                if isinstance(error, Exception):
                    return error
        return RankFailed(f"rank {rank}: {self.words}")


@contextlib.contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split(". ")[0].splitlines()[0]
        raise RankLost(f"another rank has left: {reason}") from error
