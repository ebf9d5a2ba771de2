"""Barlow Twins on the CPU: one call into ``csrc/barlow_twins/`` forward, one backward."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu._views import pointer, view
from sslkernels.numerics.views import result_dtype, wide
from sslkernels.passes.vicreg import Part


def barlow_twins_forward(
    x: Tensor,  # [N, D]
    y: Tensor,
    lambda_: float,
    eps: float,
    cuts: Mapping[str, int] | None = None,
    *,
    part: Part | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    n, d = x.shape
    takes_rows = wide(*(part or (n, d)))
    dtype = result_dtype(x.dtype)
    terms = x.new_empty(3, dtype=torch.float64)
    columns = x.new_empty((5, d), dtype=torch.float64)
    shape = (2, n, n) if takes_rows else (1, d, d)
    gram = x.new_empty(shape, dtype=dtype)
    _C.barlow_twins_forward(
        view(x),
        view(y),
        lambda_,
        eps,
        takes_rows,
        torch.get_num_threads(),
        *(pointer(t) for t in (terms, columns, gram)),
        cuts,
    )
    return terms.to(dtype), columns, gram


def barlow_twins_backward(
    grad: Tensor,  # [3]
    x: Tensor,  # [N, D]
    y: Tensor,
    columns: Tensor,  # [5, D]
    gram: Tensor,
    lambda_: float,
    need_x: bool,
    need_y: bool,
    cuts: Mapping[str, int] | None = None,
    *,
    part: Part | None = None,
    squares: Tensor | None = None,  # [2, D]
) -> tuple[Tensor | None, Tensor | None]:
    whole = part or Part(*x.shape)
    dtype = result_dtype(x.dtype) if part else x.dtype
    grad_x = x.new_empty(x.shape, dtype=dtype) if need_x else None
    grad_y = x.new_empty(x.shape, dtype=dtype) if need_y else None
    _C.barlow_twins_backward(
        grad.tolist(),
        view(x),
        view(y),
        lambda_,
        wide(*whole),
        whole.rows,
        part is not None,
        torch.get_num_threads(),
        pointer(columns),
        pointer(gram) if gram.numel() else 0,
        0 if squares is None else pointer(squares),
        *(0 if g is None else pointer(g) for g in (grad_x, grad_y)),
        cuts,
    )
    return grad_x, grad_y
