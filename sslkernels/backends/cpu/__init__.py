"""C++ kernels for CPU tensors (``csrc/``), multi-threaded with OpenMP."""

from __future__ import annotations

import torch

try:
    from sslkernels.backends.cpu import _C  # type: ignore[attr-defined]
except ImportError as error:
    _C = None
    _import_error = str(error)

from sslkernels.backends.cpu.barlow_twins import (  # noqa: F401
    barlow_twins_backward,
    barlow_twins_forward,
)
from sslkernels.backends.cpu.class_moments import class_moments_update  # noqa: F401
from sslkernels.backends.cpu.class_projections import class_projections_forward  # noqa: F401
from sslkernels.backends.cpu.mean_pairs import cdnv_sum, cosine_gap_sum  # noqa: F401
from sslkernels.backends.cpu.nearest_center import nearest_center_forward  # noqa: F401
from sslkernels.backends.cpu.nt_xent import nt_xent_backward, nt_xent_forward  # noqa: F401
from sslkernels.backends.cpu.scatter import scatter_update  # noqa: F401
from sslkernels.backends.cpu.sigreg import sigreg_backward, sigreg_forward  # noqa: F401
from sslkernels.backends.cpu.unit_moments import unit_moments_forward  # noqa: F401
from sslkernels.backends.cpu.vicreg import vicreg_backward, vicreg_forward  # noqa: F401

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def unusable() -> str | None:
    return None if _C is not None else f"the C++ extension did not import: {_import_error}"


def describe() -> str:
    return f"{_C.active_isa()} kernels, {torch.get_num_threads()} threads"


def cannot(pass_name: str, tensor: torch.Tensor) -> str | None:
    if tensor.device.type != "cpu":
        return f"expected CPU tensors, got one on {tensor.device}"
    if tensor.dtype not in _DTYPES:
        return f"expected float16, bfloat16, float32 and float64, got {tensor.dtype}"
    return None
