"""The tensors that an accumulator keeps: as passes take them, checked, and filled from saved ones.

They are made outside of inference mode (see ``_gate.py``) and changed in place: what is created or
updated in inference mode can then be updated and merged outside of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sslkernels import _checks


def kept(value: Any, name: str, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    """A plain, contiguous tensor of this dtype and shape, on the memory of ``value`` if it is."""
    return _fitting(value, name, dtype, shape).contiguous()


def copied(t: torch.Tensor) -> torch.Tensor:
    """A copy for a new accumulator to keep."""
    with torch.inference_mode(False):
        return t.clone()


def check_state(
    state: Mapping[str, Any], own: Mapping[str, torch.Tensor], name: str = "state"
) -> dict[str, torch.Tensor]:
    """The plain tensors that ``state`` holds under the names of ``own``, of the same dtypes and
    shapes, with any strides and on any device."""
    for key in own:
        if key not in state:
            raise ValueError(f"{name}: lacks {key!r}")
    return {
        key: _fitting(state[key], f"{name}: {key}", tensor.dtype, tensor.shape)
        for key, tensor in own.items()
    }


def load_state(state: Mapping[str, Any], own: Mapping[str, torch.Tensor]) -> None:
    """Fill the tensors of ``own`` in place; nothing changes if one does not fit."""
    for key, got in check_state(state, own).items():
        own[key].copy_(got)


def _fitting(value: Any, name: str, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    t = _checks.as_tensor(value, name)
    if t.dtype != dtype or t.shape != tuple(shape):
        raise ValueError(f"{name}: expected {dtype} {list(shape)}, got {t.dtype} {list(t.shape)}")
    return t
