"""CDNV in float64 NumPy, pair by pair."""

from __future__ import annotations

import numpy as np

from sslkernels.reference.class_moments import ClassMoments


def cdnv(
    m: ClassMoments, *, reduction: str = "mean", convention: str = "galanti"
) -> np.ndarray | np.float64:
    scale = {"galanti": 0.5, "sum": 1.0}[convention]
    size = m.num_classes
    out = np.full((size, size), np.nan)
    filled = np.flatnonzero(m.counts > 0)
    for i in filled:
        for j in filled:
            if i != j:
                with np.errstate(divide="ignore", invalid="ignore"):
                    d2 = ((m.means[i] - m.means[j]) ** 2).sum()
                    out[i, j] = scale * (m.variances[i] + m.variances[j]) / d2
    if reduction == "none":
        return out
    pairs = out[np.ix_(filled, filled)][~np.eye(len(filled), dtype=bool)]
    return np.float64(pairs.mean()) if len(pairs) else np.float64(np.nan)
