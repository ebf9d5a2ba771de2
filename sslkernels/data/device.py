"""Chunks brought to the device that measures them, ahead of their use."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sslkernels.data.base import Chunk


def on_device(chunks: Iterator[Chunk], device: torch.device | str) -> Iterator[Chunk]:
    """The same chunks, their tensors on ``device``."""
    where = torch.device(device)
    for start, z, labels in chunks:
        moved = None if labels is None else {k: v.to(where) for k, v in labels.items()}
        yield Chunk(start, z.to(where), moved)
