"""Directional CDNV in float64 NumPy: the variance along each line, pair by pair.

``line @ covariance @ line`` would lose what is small beside the other variances;
projections do not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sslkernels.reference.class_moments import ClassMoments


def directional_cdnv(
    z: Any,
    labels: Any,
    m: ClassMoments,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> np.ndarray | np.float64:
    z, labels = np.asarray(z, dtype=np.float64), np.asarray(labels)
    filled = np.flatnonzero(m.counts > 0)
    out = np.full((m.num_classes, m.num_classes), np.nan)
    pairs = []
    for i in filled:
        residuals = z[labels == i] - m.means[i]
        if i == ignore_index or not len(residuals):
            continue
        for j in filled:
            if i != j:
                line = m.means[j] - m.means[i]
                d2 = (line**2).sum()
                with np.errstate(divide="ignore", invalid="ignore"):
                    out[i, j] = ((residuals @ line) ** 2).mean() / d2 / d2
                pairs.append(out[i, j])
    if reduction == "none":
        return out
    return np.float64(np.mean(pairs)) if pairs else np.float64(np.nan)
