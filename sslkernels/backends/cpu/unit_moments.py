"""``unit_moments`` in C++: ``csrc/unit_moments/unit_moments.cpp``."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu._views import pointer, view


def unit_moments_forward(
    z: torch.Tensor,  # [N, D]
    cuts: Mapping[str, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One read of z; the bits do not depend on the number of threads."""
    make = z.new_empty if len(z) else z.new_zeros
    mean, m2 = (make(z.shape[1], dtype=torch.float64) for _ in range(2))
    if len(z):
        _C.unit_moments(view(z), torch.get_num_threads(), pointer(mean), pointer(m2), cuts)
    return mean, m2
