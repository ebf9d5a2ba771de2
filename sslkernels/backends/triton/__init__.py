"""Triton kernels for GPU tensors; with ``TRITON_INTERPRET=1``, for CPU tensors too."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

from sslkernels.passes.selection import resolver

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Products count offsets within a tile of 128 rows in 32 bits: 128 times 2^24, as far as rows of a
# transposed copy of two views lie apart.
_LONGEST = 1 << 23
_PRODUCTS = ("barlow_twins", "cdnv_sum", "cosine_gap_sum", "nt_xent", "sigreg", "vicreg")

PASSES = {
    "barlow_twins_forward": "barlow_twins.forward",
    "barlow_twins_backward": "barlow_twins.gradient",
    "cdnv_sum": "mean_pairs.pairs",
    "class_moments_update": "class_moments.update",
    "class_projections_forward": "class_projections.project",
    "cosine_gap_sum": "mean_pairs.pairs",
    "nearest_center_forward": "nearest_center.search",
    "nt_xent_forward": "nt_xent.forward",
    "nt_xent_backward": "nt_xent.gradient",
    # A float64 product, for which the vendor's library is what there is to reach: torch's.
    "scatter_update": ".torch.scatter",
    "sigreg_forward": "sigreg.forward",
    "sigreg_backward": "sigreg.gradient",
    "unit_moments_forward": "unit_moments.rows",
    "vicreg_forward": "vicreg.forward",
    "vicreg_backward": "vicreg.gradient",
}
__getattr__ = resolver(__name__, PASSES)

# Triton decides at import, kernel by kernel, whether a kernel is compiled or interpreted.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def unusable() -> str | None:
    if not _installed():
        return "triton is not installed (pip install 'sslkernels[triton]')"
    if not torch.cuda.is_available() and not INTERPRETED:
        return "no GPU that torch can use (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    return None


def describe() -> str:
    import triton

    where = "interpreter" if INTERPRETED else torch.cuda.get_device_name()
    return f"triton {triton.__version__}, {where}"


def cannot(pass_name: str, tensor: torch.Tensor) -> str | None:
    if tensor.device.type == "cpu":
        if not INTERPRETED:
            return "expected GPU tensors (CPU tensors only under TRITON_INTERPRET=1)"
    elif tensor.device.type != "cuda":
        return f"expected GPU tensors, got one on {tensor.device}"
    elif INTERPRETED:
        return "TRITON_INTERPRET=1 was set when the kernels were imported: expected CPU tensors"
    elif torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(tensor.device)
        if major < 8:
            return f"expected compute capability 8.0 or newer, {tensor.device} has {major}.{minor}"
    if pass_name in _PRODUCTS:
        columns_only = pass_name == "sigreg"
        if max(tensor.shape[-1:] if columns_only else tensor.shape) > _LONGEST:
            what = "columns" if columns_only else "rows and columns"
            return f"expected at most {_LONGEST} {what}, got shape {list(tensor.shape)}"
    if pass_name in ("cdnv_sum", "cosine_gap_sum"):
        return None  # class means are float64 and multiplied as three tf32 products
    if pass_name == "scatter_update" and tensor.dtype == torch.float64:
        return None
    if tensor.dtype == torch.float64:
        return "GPUs have no fast float64 products: float64 is served through the torch backend"
    if tensor.dtype not in _DTYPES:
        return f"expected float16, bfloat16 and float32, got {str(tensor.dtype)[6:]}"
    return None
