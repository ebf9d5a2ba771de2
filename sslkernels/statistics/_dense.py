"""Dense factorisations of D x D matrices, on as many threads as they can use.

LAPACK's reductions synchronise their threads thousands of times. Up to a few thousand columns that
gains nothing (1024 columns: 0.13 s on one thread, 0.16 s on four), and on a machine whose cores are
shared, where threads wait for one that is not running, it can cost a hundred times the work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

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


def eigenvalues(matrix: torch.Tensor) -> torch.Tensor:
    """Of a positive semi-definite matrix, descending, rounding below zero cut off; NaN if a value
    of the matrix is not finite."""
    if not matrix.isfinite().all():
        return matrix.new_full((len(matrix),), torch.nan)
    with threads_for(len(matrix)):
        return torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0)


def inverse(matrix: torch.Tensor) -> torch.Tensor | None:
    """Of a positive definite matrix by Cholesky; None if it is not numerically so."""
    with threads_for(len(matrix)):
        factor, failed = torch.linalg.cholesky_ex(matrix)
        return None if failed else torch.cholesky_inverse(factor)
