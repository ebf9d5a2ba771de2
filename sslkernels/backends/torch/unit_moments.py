"""Mean and scatter per column of unit rows, in dense float64 operations by blocks of rows."""

from __future__ import annotations

import torch

from sslkernels.numerics.unit_rows import normalized

_BLOCK = 2048  # rows at a time: 32 MB of float64 at D = 2048


def unit_moments_forward(
    z: torch.Tensor,  # [N, D]
    *,
    block: int = _BLOCK,
) -> tuple[torch.Tensor, torch.Tensor]:
    count = 0
    mean = z.new_zeros(z.shape[1], dtype=torch.float64)
    m2 = torch.zeros_like(mean)
    for x in z.split(block):
        if len(x):
            unit = normalized(x)
            own = unit.mean(0)
            delta, share = own - mean, len(x) / (count + len(x))
            # Chan, Golub, LeVeque, 1979; see statistics/class_moments.py.
            m2 += (unit - own).square().sum(0) + delta.square() * (count * share)
            mean += delta * share
            count += len(x)
    return mean, m2
