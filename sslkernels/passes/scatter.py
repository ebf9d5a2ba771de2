"""The pooled scatter of rows around class centers, for the spectrum and NC1.

What every backend implements, on checked tensors of one device:

``scatter_update(z, classes, centers, upper) -> None``

adds, in place, on and above the diagonal of ``upper``,

    sum_i (z_i - mu_i) (z_i - mu_i)^T,    mu_i the center of row i's class.

* ``z`` [N, D], any strides; ``classes`` int64 [N], contiguous, -1 for rows to skip; ``centers``
  float64 [C, D] and ``upper`` float64 [D, D], contiguous. What ``upper`` holds below the diagonal
  means nothing afterwards.
* Differences and products in float64. NaN and infinity propagate.
"""

from __future__ import annotations

from torch import Tensor

from sslkernels.passes._declare import statistic


@statistic(
    "(Tensor z, Tensor classes, Tensor centers, Tensor(a!) upper) -> ()",
    lambda backend, *args: backend.scatter_update(*args),
)
def scatter_update(z: Tensor, classes: Tensor, centers: Tensor, upper: Tensor) -> None:
    return None
