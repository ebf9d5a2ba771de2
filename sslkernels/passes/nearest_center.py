"""``sslkernels::nearest_center``: the rows-x-centers pass as a torch operator, so that it can be
compiled and traced. Not differentiable: its result is an index."""

from __future__ import annotations

import torch

from sslkernels.passes.selection import select


@torch.library.custom_op("sslkernels::nearest_center", mutates_args=())
def nearest_center(z: torch.Tensor, centers: torch.Tensor, exact: bool) -> torch.Tensor:
    """int64 [N]: the center nearest to each row of z [N, D]; -1 where there is none."""
    return select("nearest_center", z).nearest_center_forward(z, centers, exact)


@nearest_center.register_fake
def _(z: torch.Tensor, centers: torch.Tensor, exact: bool) -> torch.Tensor:
    return z.new_empty(z.shape[0], dtype=torch.int64)
