"""Accumulators that are read together: one state, one merge over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from sslkernels.evaluation.rows import Rows


class Part(Protocol):
    """What every streaming accumulator can do."""

    def state_dict(self) -> dict[str, torch.Tensor]: ...
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> Any: ...
    def all_reduce(self, group: Any = None) -> Any: ...


class Parts:
    """Named accumulators; the state of part ``a`` is saved under ``a/...``."""

    def __init__(self, **parts: Part) -> None:
        self._parts = parts

    def update(self, rows: Rows) -> None:
        """Add the rows of one chunk."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}/{key}": tensor
            for name, part in self._parts.items()
            for key, tensor in part.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, part in self._parts.items():
            start = f"{name}/"
            part.load_state_dict(
                {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}
            )

    def all_reduce(self, group: Any = None) -> None:
        for part in self._parts.values():
            part.all_reduce(group)
