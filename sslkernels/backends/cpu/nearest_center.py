"""``nearest_center_forward`` in C++: the method and its error bound are in
``csrc/nearest_center/nearest_center.h``."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu._views import pointer, view


def nearest_center_forward(
    z: torch.Tensor,  # [N, D] embeddings, any strides
    centers: torch.Tensor,  # [C, D] contiguous, float32 or float64
    exact: bool,
    kernel: str = "",
    cuts: Mapping[str, int] | None = None,
) -> torch.Tensor:
    """``kernel`` names a filter, for tests to compare; by default machine and shape decide."""
    out = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    _C.nearest_center(
        view(z), view(centers), exact, kernel, torch.get_num_threads(), pointer(out), cuts
    )
    return out
