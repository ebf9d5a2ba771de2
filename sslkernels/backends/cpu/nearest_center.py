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
    cuts: Mapping[str, int] | None = None,
) -> torch.Tensor:
    """int64 [N]: the nearest center of every row."""
    out = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    _C.nearest_center(view(z), view(centers), exact, torch.get_num_threads(), pointer(out), cuts)
    return out
