"""Mean and scatter per column of unit rows, for the standard deviation of normalised embeddings.

What every backend implements:

``unit_moments_forward(z) -> (mean, m2)``

* ``z`` [N, D], any strides.
* ``mean`` and ``m2``, float64 [D] each, of the rows z_i / ||z_i||; m2 is the sum of squared
  differences to the mean. Lengths, sums and squares in float64, each row scaled by its largest
  entry first where squares could leave the range of that. A row of zeros stays zero; NaN and
  infinity propagate to every column. Zeros for N = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.passes._declare import statistic


@statistic("(Tensor z) -> (Tensor, Tensor)", lambda backend, z: backend.unit_moments_forward(z))
def unit_moments(z: Tensor) -> tuple[Tensor, Tensor]:
    mean, m2 = (z.new_empty(z.shape[1], dtype=torch.float64) for _ in range(2))
    return mean, m2
