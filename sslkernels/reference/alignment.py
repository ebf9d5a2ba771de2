"""Alignment and uniformity in float64 NumPy, pair by pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from sslkernels.reference.normalized_std import normalized


def alignment(x: Any, y: Any, *, alpha: float = 2.0) -> np.float64:
    distances = np.linalg.norm(normalized(x) - normalized(y), axis=1)
    return (distances**alpha).mean() if len(distances) else np.float64(np.nan)


def uniformity(z: Any, *, t: float = 2.0) -> np.float64:
    unit = normalized(z)
    exponents = np.array(
        [-t * ((unit[i] - unit[j]) ** 2).sum() for i in range(len(unit)) for j in range(i)]
    )
    if not len(exponents):
        return np.float64(np.nan)
    return np.log(np.exp(exponents - exponents.max()).mean()) + exponents.max()
