"""Where the own center of every row stands among all centers, and how the rows of a class spread
along the lines to the other centers: rows x centers, for NCC scores and directional CDNV.

With r = z - mu_y for a row z of class y, one product serves both:

    t_j = r . (mu_j - mu_y),    ||z - mu_j||^2 = ||r||^2 + ||mu_j - mu_y||^2 - 2 t_j

What every backend implements, on checked tensors of one device:

``class_projections_forward(z, classes, centers, counts, directional, between=None)
-> (rank, alone, spread)``

* ``z`` [N, D], any strides; ``classes`` int64 [N], contiguous, -1 for rows to skip.
* ``centers`` float64 [C, D], contiguous; one that is not finite is that of an empty class.
* ``counts`` int64 [C], the rows behind each center, or None.
* ``between`` float64 [C, C], ||mu_i - mu_j||^2 as ``numerics/means.py`` makes them: saves a caller
  with many batches of rows from having them taken anew for each. A backend may leave it unused.
* ``rank`` int64 [N]: how many centers are nearer than that of the row's class, in the order of
  (float64 distance, class); -1 for skipped rows, C where the row or its own center is not finite.
* ``alone`` bool [N]: whether the own center stays the nearest once the row has left its class, so
  that its distance becomes n / (n - 1) times what it was, n = counts[y]; False without ``counts``.
* ``spread`` float64 [C]: over the rows of class i and the other centers j the sum of
  (t_j / ||mu_j - mu_i||^2)^2; NaN if a row of the class is not finite or two centers coincide, 0
  unless ``directional``.

Ranks are those of float64 distances on every backend. Sums of ``spread`` run in the arithmetic of
the product for short stretches, then in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.passes._declare import statistic


@statistic(
    "(Tensor z, Tensor classes, Tensor centers, Tensor? counts, bool directional, "
    "Tensor? between=None) -> (Tensor, Tensor, Tensor)",
    lambda backend, *args: backend.class_projections_forward(*args),
)
def class_projections(
    z: Tensor,
    classes: Tensor,
    centers: Tensor,
    counts: Tensor | None,
    directional: bool,
    between: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    alone = classes.new_empty(len(classes), dtype=torch.bool)
    return torch.empty_like(classes), alone, centers.new_empty(len(centers))
