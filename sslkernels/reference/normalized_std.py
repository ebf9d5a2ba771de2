"""The collapse measure of SimSiam in float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np


def normalized_std(z: Any) -> np.float64:
    unit = normalized(z)
    return unit.std(0).mean() if len(unit) else np.float64(np.nan)


def normalized(z: Any) -> np.ndarray:
    z = np.asarray(z, dtype=np.float64)
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    return np.divide(z, norms, out=np.zeros_like(z), where=norms != 0)
