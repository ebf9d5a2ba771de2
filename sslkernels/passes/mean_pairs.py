"""Sums over pairs of class means without a C x C matrix, for CDNV and NC2.

What every backend implements, on ``mean`` float64 [C, D], ``m2`` float64 [C] and ``counts`` int64
[C], contiguous, as :class:`sslkernels.ClassMoments` keeps them; rows of classes that are empty mean
nothing, and no pair has one of them. Results are float64 and int64, of no dimension: a sum, and how
many pairs i < j it is over.

``cdnv_sum(mean, m2, counts) -> (total, pairs)``

* the sum of (var_i + var_j) / (2 ||mu_i - mu_j||^2) with var = m2 / counts. Two classes with one
  mean make it infinite, or NaN if neither varies; a class with NaN makes it NaN.

``cosine_gap_sum(mean, counts) -> (total, pairs)``

* the sum of |cos(m_i, m_j) + 1 / (C - 1)|, C the number of classes that are not empty and m their
  means less the mean of these. NaN where such a difference is zero or not finite.

Relative errors: 1e-12 for few means. Where float32 products serve (above 512 means on the CPU, and
on GPUs), V_ij of the closest pairs that these are kept for is off by 2e-6 in standard deviation,
which averages out over pairs, and a cosine by some 1e-8.
"""

from __future__ import annotations

from torch import Tensor

from sslkernels.passes._declare import statistic


@statistic(
    "(Tensor mean, Tensor m2, Tensor counts) -> (Tensor, Tensor)",
    lambda backend, *args: backend.cdnv_sum(*args),
)
def cdnv_sum(mean: Tensor, m2: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    return mean.new_empty(()), counts.new_empty(())


@statistic(
    "(Tensor mean, Tensor counts) -> (Tensor, Tensor)",
    lambda backend, *args: backend.cosine_gap_sum(*args),
)
def cosine_gap_sum(mean: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    return mean.new_empty(()), counts.new_empty(())
