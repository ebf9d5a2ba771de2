"""Nearest class-center classification in float64 NumPy: every distance from a difference."""

from __future__ import annotations

from typing import Any

import numpy as np

from sslkernels.reference.class_moments import ClassMoments


def squared_distances(z: Any, centers: Any) -> np.ndarray:
    """float64 [N, C]; infinite for centers that are not finite throughout, and only for those."""
    z = np.asarray(z, dtype=np.float64)
    mu = centers.means if isinstance(centers, ClassMoments) else np.asarray(centers, np.float64)
    out = np.full((len(z), len(mu)), np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        for c in np.flatnonzero(np.isfinite(mu).all(1)):
            out[:, c] = np.minimum(((z - mu[c]) ** 2).sum(1), np.finfo(np.float64).max)
    return out


def ncc_predict(z: Any, centers: Any, *, precision: str = "exact") -> np.ndarray:
    d2 = squared_distances(z, centers)
    finite = np.isfinite(np.asarray(z, dtype=np.float64)).all(1)
    return np.where(finite & np.isfinite(d2).any(1), d2.argmin(1), -1)


def ncc_accuracy(
    z: Any, labels: Any, centers: Any, *, precision: str = "exact", ignore_index: int = -100
) -> np.float64:
    labels = np.asarray(labels)
    used = labels != ignore_index
    hits = ncc_predict(z, centers) == labels
    return np.float64(hits[used].mean()) if used.any() else np.float64(np.nan)
