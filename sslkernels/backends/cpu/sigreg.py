"""SIGReg's sums on the CPU: one call into ``csrc/sigreg.cpp`` forward, one backward."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.backends.cpu import _C  # type: ignore[attr-defined]
from sslkernels.backends.cpu._views import view
from sslkernels.ops.sigreg import SIGRegSettings


def _raw(settings: SIGRegSettings, step: Tensor) -> tuple[int, int, float, float, int, int]:
    """``(slices, knots, first knot, distance of knots, seed, draw)``"""
    num_slices, num_knots, t_min, _, seed = settings
    draw = int(step) % 2**64  # the bits of a step that wrapped below zero
    return (num_slices, num_knots, t_min, settings.spacing(), seed, draw)


def sigreg_forward(
    z: Tensor,  # [N, D]
    step: Tensor,
    settings: SIGRegSettings,
) -> Tensor:
    sums = z.new_empty((settings.num_slices, settings.num_knots, 2), dtype=torch.float64)
    _C.sigreg_forward(view(z), _raw(settings, step), torch.get_num_threads(), sums.data_ptr())
    return sums


def sigreg_backward(
    grad: Tensor,  # [num_slices, num_knots, 2]
    z: Tensor,  # [N, D]
    step: Tensor,
    settings: SIGRegSettings,
) -> Tensor:
    grad = grad.contiguous()
    grad_z = z.new_empty(z.shape)
    _C.sigreg_backward(
        grad.data_ptr(), view(z), _raw(settings, step), torch.get_num_threads(), grad_z.data_ptr()
    )
    return grad_z
