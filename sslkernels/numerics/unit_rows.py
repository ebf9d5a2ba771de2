"""Rows divided by their lengths."""

from __future__ import annotations

import torch

MIN_NORM = 1e-12  # losses divide by no less, as torch.nn.functional.normalize does


def normalized(x: torch.Tensor) -> torch.Tensor:
    """Rows over their lengths in float64; a row of zeros stays zero.

    Scaled by the largest entry first, so that no square leaves the range of float64.
    """
    x = x.double()
    largest = x.abs().amax(1, keepdim=True)  # may be subnormal
    x = x / largest.masked_fill(largest == 0, 1.0)
    return x / x.norm(dim=1, keepdim=True).clamp(min=1.0)
