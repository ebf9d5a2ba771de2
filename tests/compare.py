"""The tolerance of the suite: a stated multiple of what eager torch loses in the same precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def distance(got: Any, exact: Any) -> float:
    """Largest absolute difference, in float64; infinite where only one side is finite."""
    got, exact = (np.asarray(_float64(t)) for t in (got, exact))
    if got.shape != exact.shape:
        raise AssertionError(f"shape {got.shape}, expected {exact.shape}")
    if not np.isfinite(got).all():
        return np.inf
    return float(np.abs(got - exact).max(initial=0.0))


def assert_as_good(
    got: torch.Tensor, eager: torch.Tensor, exact: Any, *, times: float, scale: float = 0.0
) -> None:
    """``got`` is within ``times`` the larger of eager's own error and one rounding of the result.

    ``scale`` is a magnitude that the result is a difference of, where that is larger than itself.
    """
    magnitude = max(float(np.abs(_float64(exact)).max(initial=0.0)), scale)
    allowed = times * max(distance(eager, exact), torch.finfo(got.dtype).eps * magnitude)
    error = distance(got, exact)
    assert error <= allowed, (
        f"error {error:.3g}, allowed {allowed:.3g} at magnitude {magnitude:.3g}"
    )


def _float64(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.detach().double().numpy()
    return np.asarray(value, dtype=np.float64)
