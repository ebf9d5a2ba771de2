"""``class_projections`` in C++: the method and its error bound are in
``csrc/class_projections/class_projections.h``."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu._views import pointer, view


def class_projections_forward(
    z: torch.Tensor,  # [N, D] embeddings, any strides
    classes: torch.Tensor,  # int64 [N] contiguous, -1 for rows to skip
    centers: torch.Tensor,  # float64 [C, D] contiguous
    counts: torch.Tensor | None,  # int64 [C] contiguous
    directional: bool,
    between: torch.Tensor | None = None,  # float64 [C, C] contiguous
    cuts: Mapping[str, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n, c = len(z), len(centers)
    rank = torch.empty(n, dtype=torch.int64, device=z.device)
    alone = torch.empty(n, dtype=torch.bool, device=z.device)
    spread = torch.empty(c, dtype=torch.float64, device=z.device)
    _C.class_projections(
        view(z),
        pointer(classes),
        view(centers),
        0 if counts is None else pointer(counts),
        0 if between is None else pointer(between),
        directional,
        torch.get_num_threads(),
        pointer(rank),
        pointer(alone),
        pointer(spread),
        cuts,
    )
    return rank, alone, spread
