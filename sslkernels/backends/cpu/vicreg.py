"""VICReg on the CPU: one call into ``csrc/vicreg_*.cpp`` forward, one backward."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.backends.cpu import _C  # type: ignore[attr-defined]
from sslkernels.backends.cpu._views import _CODES
from sslkernels.ops.vicreg import result_dtype, wide

Problems = tuple[int, int, int, int, int, int, int, int]


def _problems(z: Tensor) -> Problems:
    """``(data_ptr, dtype code, P, N, D, their strides)`` of a [P, N, D] tensor."""
    return (z.data_ptr(), _CODES[z.dtype], *z.shape, *z.stride())


def vicreg_forward(
    x: Tensor,  # [P, N, D]
    y: Tensor | None,
    sim: float,
    std: float,
    cov: float,
    gamma: float,
    eps: float,
    invariance: bool,
    variance: bool,
    covariance: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    p, n, d = x.shape
    views = 1 if y is None else 2
    narrow_side = wide(n, d)
    side = (n if narrow_side else d) if covariance else 0
    moments = (views, p, d if variance or covariance else 0)
    dtype = result_dtype(x.dtype)
    terms = torch.empty(4, dtype=dtype)
    mean = torch.empty(moments, dtype=torch.float64)
    var = torch.empty(moments, dtype=torch.float64)
    gram = torch.empty((views, p, side, side), dtype=dtype)
    _C.vicreg_forward(
        _problems(x),
        None if y is None else _problems(y),
        (sim, std, cov, gamma, eps, invariance, variance, covariance, narrow_side),
        torch.get_num_threads(),
        *(t.data_ptr() for t in (terms, mean, var, gram)),
    )
    return terms, mean, var, gram


def vicreg_backward(
    grad: Tensor,  # [4]
    x: Tensor,  # [P, N, D]
    y: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gram: Tensor,
    sim: float,
    std: float,
    cov: float,
    gamma: float,
    eps: float,
    invariance: bool,
    variance: bool,
    covariance: bool,
    need_x: bool,
    need_y: bool,
) -> tuple[Tensor | None, Tensor | None]:
    grad_x = torch.empty(x.shape, dtype=x.dtype) if need_x else None
    grad_y = torch.empty(x.shape, dtype=x.dtype) if need_y and y is not None else None
    _C.vicreg_backward(
        grad.tolist(),
        _problems(x),
        None if y is None else _problems(y),
        (sim, std, cov, gamma, eps, invariance, variance, covariance, wide(*x.shape[1:])),
        torch.get_num_threads(),
        *(t.data_ptr() for t in (mean, var, gram)),
        *(0 if g is None else g.data_ptr() for g in (grad_x, grad_y)),
    )
    return grad_x, grad_y
