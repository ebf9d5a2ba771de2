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
    own: tuple[int, int] | None = None,
    cuts: Mapping[str, int] | None = None,
) -> tuple[Tensor, Tensor]:
    first, samples = own or (0, x.shape[0])
    terms = x.new_empty(3, dtype=torch.float64)
    rows = x.new_empty((2, 2 * samples), dtype=torch.float64)
    _C.nt_xent_forward(
        view(x),
        view(y),
        first,
        samples,
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
    need_radial: bool = False,
    own: tuple[int, int] | None = None,
    unrounded: bool = False,
    cuts: Mapping[str, int] | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    n, d = x.shape
    first, samples = own or (0, n)
    dtype = result_dtype(x.dtype) if unrounded else x.dtype
    grad_x = x.new_empty((samples, d), dtype=dtype) if need_x else None
    grad_y = x.new_empty((samples, d), dtype=dtype) if need_y else None
    radial = x.new_empty((), dtype=torch.float64) if need_radial else None
    _C.nt_xent_backward(
        grad.tolist(),
        view(x),
        view(y),
        first,
        samples,
        temperature,
        torch.get_num_threads(),
        pointer(rows[0]),
        pointer(rows[1]),
        unrounded,
        *(0 if t is None else pointer(t) for t in (grad_x, grad_y, radial)),
        cuts,
    )
    return grad_x, grad_y, radial
