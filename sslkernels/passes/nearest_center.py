"""The nearest center of every row: rows x centers with an argmin, for NCC.

What every backend implements, on checked tensors of one device:

``nearest_center_forward(z, centers, exact) -> nearest``

* ``z`` [N, D], any strides; ``centers`` [C, D], contiguous, float32 or float64.
* ``nearest`` int64 [N]: the argmin over c of ||z_i - mu_c||^2, ties to the lowest c. Centers with a
  value that is not finite are never chosen; -1 for rows with such a value, and everywhere if no
  center is left.
* ``exact``: the argmin of float64 distances. A backend may filter centers in low precision, with a
  proven bound on the error, and decides in float64 where the bound does not. Otherwise the argmin
  of one pass in low precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.passes._declare import statistic


@statistic(
    "(Tensor z, Tensor centers, bool exact) -> Tensor",
    lambda backend, *args: backend.nearest_center_forward(*args),
)
def nearest_center(z: Tensor, centers: Tensor, exact: bool) -> Tensor:
    return z.new_empty(z.shape[0], dtype=torch.int64)
