"""SIGReg's sums on the CPU: one call into ``csrc/sigreg/sigreg.cpp`` forward, one backward."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu._views import pointer, view
from sslkernels.passes.sigreg import SIGRegSettings


def _raw(settings: SIGRegSettings, step: Tensor) -> tuple[int, int, float, float, int, int]:
    """``(slices, knots, first knot, distance of knots, seed, draw)``"""
    num_slices, num_knots, t_min, _, seed = settings
    draw = int(step) % 2**64  # the bits of a step that wrapped below zero
    return (num_slices, num_knots, t_min, settings.spacing(), seed, draw)


def sigreg_forward(
    z: Tensor,  # [N, D]
    step: Tensor,
    settings: SIGRegSettings,
    cuts: Mapping[str, int] | None = None,
) -> Tensor:
    sums = z.new_empty((settings.num_slices, settings.num_knots, 2), dtype=torch.float64)
    _C.sigreg_forward(view(z), _raw(settings, step), torch.get_num_threads(), pointer(sums), cuts)
    return sums


def sigreg_backward(
    grad: Tensor,  # [num_slices, num_knots, 2]
    z: Tensor,  # [N, D]
    step: Tensor,
    settings: SIGRegSettings,
    cuts: Mapping[str, int] | None = None,
) -> Tensor:
    grad = grad.contiguous()
    grad_z = z.new_empty(z.shape)
    _C.sigreg_backward(
        pointer(grad),
        view(z),
        _raw(settings, step),
        torch.get_num_threads(),
        pointer(grad_z),
        cuts,
    )
    return grad_z
