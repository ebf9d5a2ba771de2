"""Tensors as the raw memory that the C++ extension takes.

What cannot be read there is refused here, whatever let it pass before: nothing but the address of
aligned memory on the CPU reaches C++.
"""

from __future__ import annotations

import torch

from sslkernels.passes.selection import Misaligned

_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

View = tuple[int, int, int, int, int, int]


def address(t: torch.Tensor) -> int:
    """Of the first element of a tensor with any strides.

    Raises:
        Misaligned: it lies between two elements.
        RuntimeError: it is no address of the tensor's values on the CPU.
    """
    if not t.is_cpu or t.is_neg() or t.is_conj():
        if not t.is_cpu:
            raise RuntimeError(f"expected a tensor on the CPU, got one on {t.device}")
        raise RuntimeError("expected values as they are in memory, got lazily negated ones")
    data = t.data_ptr()
    if data & 7 and data % t.element_size():  # no element is longer than eight bytes
        raise Misaligned(f"expected {t.dtype} in aligned memory, got address {data:#x}")
    return data


def pointer(t: torch.Tensor) -> int:
    """Of the first element of a contiguous tensor."""
    if not t.is_contiguous():
        raise RuntimeError(
            f"expected a contiguous tensor, got strides {t.stride()} of shape {list(t.shape)}"
        )
    return address(t)


def view(t: torch.Tensor) -> View:
    """``(address, dtype code, rows, cols, row stride, column stride)`` of a [N, D] tensor."""
    rows, cols = t.shape
    return (address(t), _CODES[t.dtype], rows, cols, t.stride(0), t.stride(1))
