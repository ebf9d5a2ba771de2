"""VICReg on the CPU: one call into ``csrc/vicreg/`` forward, one backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu._views import _CODES, address, pointer
from sslkernels.numerics.views import result_dtype, wide
from sslkernels.passes.vicreg import Part, VICRegSettings, empty_results

Problems = tuple[int, int, int, int, int, int, int, int]


def _problems(z: Tensor) -> Problems:
    """``(data_ptr, dtype code, P, N, D, their strides)`` of a [P, N, D] tensor."""
    return (address(z), _CODES[z.dtype], *z.shape, *z.stride())


def _options(x: Tensor, settings: VICRegSettings, part: Part | None) -> tuple[Any, ...]:
    whole = part or Part(*x.shape[1:])
    return (*settings, wide(*whole), *whole, part is not None)


def vicreg_forward(
    x: Tensor,  # [P, N, D]
    y: Tensor | None,
    settings: VICRegSettings,
    cuts: Mapping[str, int] | None = None,
    *,
    part: Part | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    results = empty_results(x, y, settings, part)
    _C.vicreg_forward(
        _problems(x),
        None if y is None else _problems(y),
        _options(x, settings, part),
        torch.get_num_threads(),
        *(pointer(t) for t in results),
        cuts,
    )
    return results


def vicreg_backward(
    grad: Tensor,  # [4]
    x: Tensor,  # [P, N, D]
    y: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gram: Tensor,
    settings: VICRegSettings,
    need_x: bool,
    need_y: bool,
    cuts: Mapping[str, int] | None = None,
    *,
    part: Part | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    dtype = result_dtype(x.dtype) if part else x.dtype
    grad_x = x.new_empty(x.shape, dtype=dtype) if need_x else None
    grad_y = x.new_empty(x.shape, dtype=dtype) if need_y and y is not None else None
    _C.vicreg_backward(
        grad.tolist(),
        _problems(x),
        None if y is None else _problems(y),
        _options(x, settings, part),
        torch.get_num_threads(),
        *(pointer(t) for t in (mean, var, gram)),
        *(0 if g is None else pointer(g) for g in (grad_x, grad_y)),
        cuts,
    )
    return grad_x, grad_y
