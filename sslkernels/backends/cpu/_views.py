"""Tensors as the raw strided views that the C++ extension takes."""

from __future__ import annotations

import torch

_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

View = tuple[int, int, int, int, int, int]


def view(t: torch.Tensor) -> View:
    """``(data_ptr, dtype code, rows, cols, row stride, column stride)`` of a [N, D] tensor."""
    rows, cols = t.shape
    return (t.data_ptr(), _CODES[t.dtype], rows, cols, t.stride(0), t.stride(1))
