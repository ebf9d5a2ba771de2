"""Plain dense torch operations: any device and dtype, the same algebra as the kernels."""

from __future__ import annotations

import torch

from sslkernels.backends.torch.barlow_twins import (  # noqa: F401
    barlow_twins_backward,
    barlow_twins_forward,
)
from sslkernels.backends.torch.class_moments import class_moments_update  # noqa: F401
from sslkernels.backends.torch.class_projections import class_projections_forward  # noqa: F401
from sslkernels.backends.torch.nearest_center import nearest_center_forward  # noqa: F401
from sslkernels.backends.torch.nt_xent import nt_xent_backward, nt_xent_forward  # noqa: F401
from sslkernels.backends.torch.pairs import cdnv_sum, cosine_gap_sum  # noqa: F401
from sslkernels.backends.torch.scatter import scatter_update  # noqa: F401
from sslkernels.backends.torch.sigreg import sigreg_backward, sigreg_forward  # noqa: F401
from sslkernels.backends.torch.unit_moments import unit_moments_forward  # noqa: F401
from sslkernels.backends.torch.vicreg import vicreg_backward, vicreg_forward  # noqa: F401


def unusable() -> str | None:
    return None


def describe() -> str:
    return f"torch {torch.__version__}"


def cannot(pass_name: str, tensor: torch.Tensor) -> str | None:
    if not tensor.dtype.is_floating_point:
        return f"expected floating-point tensors, got {tensor.dtype}"
    return None
