"""What the drop-ins have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch import distributed as dist


def every_rank() -> Any:
    """The default process group where there is one of several ranks, else None: where the
    originals gather."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist.group.WORLD
    return None


def matrix(z: Tensor, name: str) -> None:
    """Middle dimensions are a meaning of ours and lightly's: the other originals refuse them."""
    if z.ndim != 2:
        raise ValueError(f"{name}: takes shape [N, D], got {list(z.shape)}")
