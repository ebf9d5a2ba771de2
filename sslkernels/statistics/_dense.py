"""Dense factorisations of D x D matrices, on as many threads as they can use.

LAPACK's reductions synchronise their threads thousands of times. Up to a few thousand columns that
gains nothing (1024 columns: 0.13 s on one thread, 0.16 s on four), and on a machine whose cores are
shared, where threads wait for one that is not running, it can cost a hundred times the work.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

_ONE_THREAD = 2048  # columns up to which one thread serves


@contextlib.contextmanager
def threads_for(size: int) -> Iterator[None]:
    """One torch thread inside the block for matrices of up to 2048 columns."""
    before = torch.get_num_threads()
    if size > _ONE_THREAD or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(tasks: Sequence[tuple[int, Callable[[], T]]]) -> list[T]:
    """The results of tasks on the CPU, each given with the size of its matrices, in order.

    Tasks for matrices of up to 2048 columns run at the same time, on one thread each; then the
    others in turn, on all threads.
    """
    threads = torch.get_num_threads()
    small = [work for size, work in tasks if size <= _ONE_THREAD]
    if threads == 1 or len(small) < 2:
        return [work() for _, work in tasks]
    torch.set_num_threads(1)  # of this thread and of MKL; OpenMP has a number for every thread
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            # The backend that the caller has chosen is part of its context.
            started = [pool.submit(contextvars.copy_context().run, work) for work in small]
        done = iter([task.result() for task in started])
    finally:
        torch.set_num_threads(threads)
    return [next(done) if size <= _ONE_THREAD else work() for size, work in tasks]


def eigenvalues(matrix: torch.Tensor) -> torch.Tensor:
    """Of a positive semi-definite matrix, descending, rounding below zero cut off; NaN if a value
    of the matrix is not finite."""
    if not matrix.isfinite().all():
        return matrix.new_full((len(matrix),), torch.nan)
    with threads_for(len(matrix)):
        return torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0)
