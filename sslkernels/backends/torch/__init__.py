"""Plain dense torch operations: any device and dtype, the same algebra as the kernels."""

from __future__ import annotations

import torch

from sslkernels.passes.selection import resolver

PASSES = {
    "barlow_twins_backward": "barlow_twins",
    "barlow_twins_forward": "barlow_twins",
    "cdnv_sum": "mean_pairs",
    "class_moments_update": "class_moments",
    "class_projections_forward": "class_projections",
    "cosine_gap_sum": "mean_pairs",
    "nearest_center_forward": "nearest_center",
    "nt_xent_backward": "nt_xent",
    "nt_xent_forward": "nt_xent",
    "scatter_update": "scatter",
    "sigreg_along": "sigreg",
    "sigreg_backward": "sigreg",
    "sigreg_forward": "sigreg",
    "unit_moments_forward": "unit_moments",
    "vicreg_backward": "vicreg",
    "vicreg_forward": "vicreg",
}
__getattr__ = resolver(__name__, PASSES)


def unusable() -> str | None:
    return None


def describe() -> str:
    return f"torch {torch.__version__}"


def cannot(pass_name: str, tensor: torch.Tensor) -> str | None:
    if not tensor.dtype.is_floating_point:
        return f"expected floating-point tensors, got {tensor.dtype}"
    return None
