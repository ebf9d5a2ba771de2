"""Argument checks shared by every public function: each error names the argument, what it got and
what it takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sslkernels._gate import plain

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INT_DTYPES = (
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)


def as_tensor(value: Any, name: str) -> torch.Tensor:
    """A plain torch tensor, without derivatives, of a tensor, a NumPy array or anything DLPack.

    On the memory of ``value`` where that is aligned, in native byte order and of positive strides.

    Raises:
        TypeError: ``value`` is none of these, or does not simply hold numbers.
    """
    if isinstance(value, torch.Tensor):
        return plain(value, name)
    if isinstance(value, np.ndarray):
        return _from_numpy(value, name)
    if hasattr(value, "__dlpack__"):
        return plain(torch.from_dlpack(value), name)
    raise TypeError(f"{name}: expected a torch tensor or a NumPy array, got {type(value).__name__}")


def _from_numpy(value: np.ndarray, name: str) -> torch.Tensor:
    if value.dtype == object:
        raise TypeError(f"{name}: an array of dtype object holds no numbers")
    if np.ma.is_masked(value):
        raise TypeError(
            f"{name}: expected an array of values, got a masked array with "
            f"{np.ma.count_masked(value)} of them masked"
        )
    value = np.asarray(value)  # a subclass may index in its own way
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    # Torch has no negative strides, none between elements, and takes memory to be aligned.
    if not value.flags.aligned or any(s < 0 or s % value.itemsize for s in value.strides):
        value = value.copy()
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
            f"{name}: expected float16, bfloat16, float32 or float64, got {str(z.dtype)[6:]}"
        )
    if z.ndim != 2:
        raise ValueError(f"{name}: expected shape [N, D], got {list(z.shape)}")
    if z.shape[1] == 0:
        raise ValueError(f"{name}: needs at least one column, got shape {list(z.shape)}")
    return z


def labelings(
    labels: torch.Tensor, count: int, z: torch.Tensor, *, suffix: str = ""
) -> torch.Tensor:
    """Integer labels [K, N], or [N] when K = 1, as int64 [K, N] contiguous; the pass checks their
    values. ``suffix`` is that of both names."""
    name = "labels" + suffix
    if labels.dtype not in INT_DTYPES:
        raise TypeError(f"{name}: expected integers, got {str(labels.dtype)[6:]}")
    rows = labels.unsqueeze(0) if labels.ndim == 1 and count == 1 else labels
    if rows.shape != (count, z.shape[0]):
        wanted = f"[{z.shape[0]}]" if count == 1 else f"[{count}, {z.shape[0]}]"
        raise ValueError(
            f"{name}: expected shape {wanted} to match z{suffix}, got {list(labels.shape)}"
        )
    if labels.device != z.device:
        raise ValueError(f"{name}: is on {labels.device}, z{suffix} is on {z.device}")
    return as_int64(rows, name).contiguous()


def as_int64(integers: torch.Tensor, name: str) -> torch.Tensor:
    """Integers of any dtype as int64; of uint64, a value past that is a ValueError."""
    out = integers.to(torch.int64)
    if integers.dtype == torch.uint64 and (wrapped := out < 0).any():
        where = wrapped.nonzero()[0].tolist()
        value = int(out[tuple(where)]) + 2**64
        raise ValueError(f"{name}: row {where[-1]} holds {value}, past the range of int64")
    return out


def positive_int(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: expected a positive int, got {value}")
    return int(value)


def one_of(value: str, name: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value
