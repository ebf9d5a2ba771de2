"""The pooled scatter in dense float64 operations, by blocks of rows."""

from __future__ import annotations

import torch

_BLOCK = 2048  # rows at a time: 32 MB of float64 at D = 2048
_TILE = 256  # columns per tile of the upper triangle: at D = 2048, 56% of the full product


def scatter_update(
    z: torch.Tensor,  # [N, D] embeddings, any strides
    classes: torch.Tensor,  # int64 [N]; -1 for rows to skip
    centers: torch.Tensor,  # float64 [C, D]
    upper: torch.Tensor,  # float64 [D, D]
    *,
    block: int = _BLOCK,
    tile: int = _TILE,
) -> None:
    for x, c in zip(z.split(block), classes.split(block), strict=True):
        used = c >= 0
        if not used.all():
            x, c = x[used], c[used]
        centered = x.double() - centers[c]
        for start in range(0, z.shape[1], tile):
            stop = start + tile
            upper[start:stop, start:].addmm_(centered[:, start:stop].T, centered[:, start:])
