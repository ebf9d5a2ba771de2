"""SIGReg's sums on the CPU: one call into ``csrc/sigreg.cpp`` forward, one backward."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.backends.cpu import _C  # type: ignore[attr-defined]
from sslkernels.backends.cpu._views import view

Settings = tuple[int, int, float, float, int, int]


def _settings(
    step: Tensor, num_slices: int, num_knots: int, t_min: float, t_max: float, seed: int
) -> Settings:
    """``(slices, knots, first knot, distance of knots, seed, draw)``"""
    draw = int(step) % 2**64  # the bits of a step that wrapped below zero
    return (num_slices, num_knots, t_min, (t_max - t_min) / (num_knots - 1), seed, draw)


def sigreg_forward(
    z: Tensor,  # [N, D]
    step: Tensor,
    num_slices: int,
    num_knots: int,
    t_min: float,
    t_max: float,
    seed: int,
) -> Tensor:
    sums = torch.empty((num_slices, num_knots, 2), dtype=torch.float64)
    settings = _settings(step, num_slices, num_knots, t_min, t_max, seed)
    _C.sigreg_forward(view(z), settings, torch.get_num_threads(), sums.data_ptr())
    return sums


def sigreg_backward(
    grad: Tensor,  # [num_slices, num_knots, 2]
    z: Tensor,  # [N, D]
    step: Tensor,
    num_slices: int,
    num_knots: int,
    t_min: float,
    t_max: float,
    seed: int,
) -> Tensor:
    grad = grad.contiguous()
    grad_z = torch.empty(z.shape, dtype=z.dtype)
    settings = _settings(step, num_slices, num_knots, t_min, t_max, seed)
    _C.sigreg_backward(
        grad.data_ptr(), view(z), settings, torch.get_num_threads(), grad_z.data_ptr()
    )
    return grad_z
