"""NT-Xent on the CPU: one call into ``csrc/nt_xent/`` forward, one backward."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu._views import pointer, view
from sslkernels.numerics.views import result_dtype


def nt_xent_forward(
    x: Tensor,  # [N, D]
    y: Tensor,
    temperature: float,
    cuts: Mapping[str, int] | None = None,
) -> tuple[Tensor, Tensor]:
    terms = x.new_empty(3, dtype=torch.float64)
    rows = x.new_empty((2, 2 * x.shape[0]), dtype=torch.float64)
    _C.nt_xent_forward(
        view(x),
        view(y),
        temperature,
        torch.get_num_threads(),
        *(pointer(t) for t in (terms, rows[0], rows[1])),
        cuts,
    )
    return terms.to(result_dtype(x.dtype)), rows


def nt_xent_backward(
    grad: Tensor,  # [3]
    x: Tensor,  # [N, D]
    y: Tensor,
    rows: Tensor,  # [2, 2N]
    temperature: float,
    need_x: bool,
    need_y: bool,
    cuts: Mapping[str, int] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    grad_x = x.new_empty(x.shape) if need_x else None
    grad_y = x.new_empty(x.shape) if need_y else None
    _C.nt_xent_backward(
        grad.tolist(),
        view(x),
        view(y),
        temperature,
        torch.get_num_threads(),
        pointer(rows[0]),
        pointer(rows[1]),
        *(0 if g is None else pointer(g) for g in (grad_x, grad_y)),
        cuts,
    )
    return grad_x, grad_y
