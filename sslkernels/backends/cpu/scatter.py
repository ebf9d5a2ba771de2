"""The pooled scatter in C++: the method is in ``csrc/scatter/scatter.h``."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu._views import pointer, view


def scatter_update(
    z: torch.Tensor,  # [N, D] embeddings, any strides
    classes: torch.Tensor,  # int64 [N], contiguous; -1 for rows to skip
    centers: torch.Tensor,  # float64 [C, D], contiguous
    upper: torch.Tensor,  # float64 [D, D], contiguous
    cuts: Mapping[str, int] | None = None,
) -> None:
    """The bits do not depend on the number of threads. Memory: 8 MB, or 256 rows in float64 if that
    is more, and 8 bytes per row."""
    _C.scatter_update(
        view(z),
        pointer(classes),
        pointer(centers),
        pointer(upper),
        torch.get_num_threads(),
        cuts,
    )
