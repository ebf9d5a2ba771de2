"""C++ kernels for CPU tensors (``csrc/``), multi-threaded with OpenMP."""

from __future__ import annotations

import torch

from sslkernels.passes.selection import resolver

try:
    from sslkernels.backends.cpu import _C  # type: ignore[attr-defined]
except ImportError as error:
    _C = None
    _import_error = str(error)

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
    "sigreg_backward": "sigreg",
    "sigreg_forward": "sigreg",
    "unit_moments_forward": "unit_moments",
    "vicreg_backward": "vicreg",
    "vicreg_forward": "vicreg",
}
__getattr__ = resolver(__name__, PASSES)

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def unusable() -> str | None:
    return None if _C is not None else f"the C++ extension did not import: {_import_error}"


def describe() -> str:
    return f"{_C.active_isa()} kernels, {torch.get_num_threads()} threads"


def cannot(pass_name: str, tensor: torch.Tensor) -> str | None:
    if not tensor.is_cpu:
        return f"expected CPU tensors, got one on {tensor.device}"
    if tensor.dtype not in _DTYPES:
        return f"expected float16, bfloat16, float32 and float64, got {tensor.dtype}"
    return None
