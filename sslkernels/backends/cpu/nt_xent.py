"""NT-Xent on the CPU: one call into ``csrc/nt_xent_*.cpp`` forward, one backward."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.backends.cpu import _C  # type: ignore[attr-defined]
from sslkernels.backends.cpu._views import view
from sslkernels.ops.vicreg import result_dtype


def nt_xent_forward(x: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    terms = x.new_empty(3, dtype=torch.float64)
    rows = x.new_empty((2, 2 * x.shape[0]), dtype=torch.float64)
    _C.nt_xent_forward(
        view(x),
        view(y),
        temperature,
        torch.get_num_threads(),
        *(t.data_ptr() for t in (terms, rows[0], rows[1])),
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
) -> tuple[Tensor | None, Tensor | None]:
    grad_x = x.new_empty(x.shape) if need_x else None
    grad_y = x.new_empty(x.shape) if need_y else None
    _C.nt_xent_backward(
        grad.tolist(),
        view(x),
        view(y),
        temperature,
        torch.get_num_threads(),
        rows[0].data_ptr(),
        rows[1].data_ptr(),
        *(0 if g is None else g.data_ptr() for g in (grad_x, grad_y)),
    )
    return grad_x, grad_y
