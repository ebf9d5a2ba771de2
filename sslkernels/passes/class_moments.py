"""Counts, means and scatter of every class, for K labelings of the same rows in one read of them.

``class_moments_update(z, labels, states, ignore_index) -> reports`` takes the K states as one list,
three tensors after three. What every backend implements, on checked tensors of one device:

``class_moments_update(z, labels, states, ignore_index) -> reports``

* ``z`` [N, D], any strides; ``labels`` int64 [K, N], contiguous.
* ``states``: K tuples (counts int64 [C], mean float64 [C, D], m2 float64 [C]), contiguous, into
  which the batch is merged in place (Chan, Golub, LeVeque, 1979). With n_b rows of mean mu_b and
  scatter m2_b = sum ||z - mu_b||^2 of a class in the batch, n_a, mu_a and m2_a before, n = n_a +
  n_b:

      mean = mu_a + (mu_b - mu_a) n_b / n,    m2 = m2_a + m2_b + ||mu_b - mu_a||^2 n_a n_b / n

* Rows labelled ``ignore_index`` are skipped, and so is any other label outside of [0, C), which is
  an error: where the host knows at once, a ValueError that names the first such row and its label
  (no state has changed then) and ``reports`` int64 [0, 2]; on a GPU ``reports`` int64 [K, 2] of
  that row and label, -1 and 0 if there is none, for the host to read when it next waits.
* Sums run in float32 within short runs of rows around a shift near the class, in float64 across
  runs, and in float64 throughout for float64 rows. NaN and infinity poison their own class only.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from sslkernels.passes._declare import statistic


def bad_label(name: str, row: int, value: int, num_classes: int, ignore_index: int) -> ValueError:
    """The error for a label out of range, the same on every backend."""
    return ValueError(
        f"{name}: row {row} holds {value}, outside [0, {num_classes}) and not the "
        f"ignore_index {ignore_index}"
    )


def _update(
    backend: ModuleType, z: Tensor, labels: Tensor, states: Sequence[Tensor], ignore_index: int
) -> Tensor:
    one_by_one = iter(states)
    grouped = list(zip(one_by_one, one_by_one, one_by_one, strict=True))
    return backend.class_moments_update(z, labels, grouped, ignore_index)


@statistic("(Tensor z, Tensor labels, Tensor(a!)[] states, SymInt ignore_index) -> Tensor", _update)
def class_moments_update(
    z: Tensor, labels: Tensor, states: Sequence[Tensor], ignore_index: int
) -> Tensor:
    return labels.new_empty((torch.library.get_ctx().new_dynamic_size(), 2))
