"""Augmentations for 8 x 8 digits, a whole batch at a time: small rotation, scale, shear and shift,
stroke strength, a cut-out patch, noise.

No flips and no large rotations: they turn a 6 into a 9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Strength:
    """How far a view may stray from its image."""

    rotation: float = 15.0  # degrees, either way
    scale: float = 0.15  # share, either way
    shear: float = 0.15  # horizontal, as in slanted writing
    shift: float = 0.8  # pixels, either way
    contrast: float = 0.3  # share of the stroke's strength, either way
    patch: int = 3  # side of the erased square, pixels
    patch_chance: float = 0.5
    noise: float = 0.1  # standard deviation; images are in [0, 1]


def augment(
    images: torch.Tensor, generator: torch.Generator, strength: Strength | None = None
) -> torch.Tensor:
    """One random view of every image [N, 1, 8, 8]; the generator lives on the images' device."""
    s = strength or Strength()
    n, _, height, width = images.shape

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, device=images.device, generator=generator)

    def around_zero(reach: float, *shape: int) -> torch.Tensor:
        return (2 * uniform(*shape) - 1) * reach

    angle = around_zero(s.rotation * math.pi / 180)
    zoom = 1 + around_zero(s.scale)
    slant = around_zero(s.shear)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    shift = around_zero(s.shift * 2 / width, 2)  # the grid spans [-1, 1]
    theta = torch.stack(
        [
            torch.stack([cos, slant * cos - sin, shift[:, 0]], 1),
            torch.stack([sin, slant * sin + cos, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, align_corners=False)
    views = views * (1 + around_zero(s.contrast, 1, 1, 1))

    corner = uniform(2)
    rows = torch.arange(height, device=images.device) - (corner[:, :1] * height).floor()
    columns = torch.arange(width, device=images.device) - (corner[:, 1:] * width).floor()
    half = s.patch // 2
    erased = (rows.abs() <= half)[:, :, None] & (columns.abs() <= half)[:, None, :]
    erased &= (uniform() < s.patch_chance)[:, None, None]
    views = views.masked_fill(erased[:, None], 0.0)

    noise = torch.randn(views.shape, device=images.device, generator=generator)
    return views + s.noise * noise
