"""Argument checks shared by every public function: each error names the argument, what it got and
what it takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INT_DTYPES = (
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)


def as_tensor(value: Any, name: str) -> torch.Tensor:
    """A torch tensor on the memory of ``value``: a tensor, a NumPy array or anything DLPack."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            raise TypeError(f"{name}: an array of dtype object holds no numbers")
        if not value.dtype.isnative:
            value = value.astype(value.dtype.newbyteorder("="))
        return _from_numpy(value, name)
    if hasattr(value, "__dlpack__"):
        return torch.from_dlpack(value)
    raise TypeError(f"{name}: takes a torch tensor or a NumPy array, got {type(value).__name__}")


def like(result: torch.Tensor, source: Any) -> Any:
    """The result as the user gave the input: a NumPy array for a NumPy array, else the tensor."""
    return result.numpy() if isinstance(source, np.ndarray) else result


def _from_numpy(value: np.ndarray, name: str) -> torch.Tensor:
    if any(s < 0 for s in value.strides):
        value = value.copy()  # torch has no negative strides
    with warnings.catch_warnings():
        # A read-only array, such as np.load(..., mmap_mode="r"): we never write to inputs.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        try:
            return torch.from_numpy(value)
        except TypeError as error:
            raise TypeError(f"{name}: dtype {value.dtype} has no torch counterpart") from error


def embeddings(z: torch.Tensor, name: str = "z") -> torch.Tensor:
    """A floating-point [N, D] tensor with D >= 1."""
    if z.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{name}: takes float16, bfloat16, float32 or float64, got {str(z.dtype)[6:]}"
        )
    if z.ndim != 2:
        raise ValueError(f"{name}: takes shape [N, D], got {list(z.shape)}")
    if z.shape[1] == 0:
        raise ValueError(f"{name}: needs at least one column, got shape {list(z.shape)}")
    return z


def labelings(labels: torch.Tensor, count: int, z: torch.Tensor) -> torch.Tensor:
    """Integer labels [K, N], or [N] when K = 1, as int64 [K, N]; the pass checks their values."""
    if labels.dtype not in INT_DTYPES:
        raise TypeError(f"labels: takes integers, got {str(labels.dtype)[6:]}")
    rows = labels.unsqueeze(0) if labels.ndim == 1 and count == 1 else labels
    if rows.shape != (count, z.shape[0]):
        wanted = f"[{z.shape[0]}]" if count == 1 else f"[{count}, {z.shape[0]}]"
        raise ValueError(f"labels: takes shape {wanted} to match z, got {list(labels.shape)}")
    if labels.device != z.device:
        raise ValueError(f"labels: is on {labels.device}, z is on {z.device}")
    return rows.to(torch.int64).contiguous()


def positive_int(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: takes an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: takes a positive int, got {value}")
    return int(value)


def one_of(value: str, name: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ValueError(f"{name}: takes one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def bad_label(name: str, row: int, value: int, num_classes: int, ignore_index: int) -> ValueError:
    """The error for a label out of range, the same on every backend."""
    return ValueError(
        f"{name}: row {row} holds {value}, outside [0, {num_classes}) and not the "
        f"ignore_index {ignore_index}"
    )
