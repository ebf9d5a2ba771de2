"""Neural collapse in float64 NumPy: D x D matrices and a pseudo-inverse, plain on purpose."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sslkernels.reference.class_moments import ClassMoments, class_moments
from sslkernels.reference.ncc import ncc_predict


class NeuralCollapse(NamedTuple):
    nc1: np.float64
    nc2_norms: np.float64
    nc2_angles: np.float64
    nc3: np.float64 | None = None
    nc4: np.float64 | None = None


def neural_collapse(
    z: Any,
    labels: Any,
    num_classes: int,
    *,
    weight: Any = None,
    bias: Any = None,
    ignore_index: int = -100,
) -> NeuralCollapse:
    z, labels = np.asarray(z, dtype=np.float64), np.asarray(labels)
    m = class_moments(z, labels, num_classes, ignore_index=ignore_index)
    assert isinstance(m, ClassMoments)
    used = labels != ignore_index
    z, labels = z[used], labels[used]
    filled = np.flatnonzero(m.counts > 0)
    size = len(filled)
    nan = np.float64(np.nan)
    nc1 = norms_gap = angles_gap = nan
    centered = m.means[filled] - m.means[filled].mean(0) if size else m.means[filled]
    if size > 1:
        residuals = z - m.means[labels]
        sigma_w = residuals.T @ residuals / len(z)
        sigma_b = centered.T @ centered / size
        if np.isfinite(sigma_b).all() and sigma_b.any():
            nc1 = np.trace(sigma_w @ np.linalg.pinv(sigma_b, rcond=1e-12, hermitian=True)) / size
        norms = np.linalg.norm(centered, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            norms_gap = norms.std() / norms.mean()
            unit = centered / norms[:, None]
            gaps = np.abs(unit @ unit.T + 1 / (size - 1))
        angles_gap = gaps[~np.eye(size, dtype=bool)].mean()
    if weight is None:
        return NeuralCollapse(nc1, norms_gap, angles_gap)
    weight = np.asarray(weight, dtype=np.float64)
    bias = np.zeros(num_classes) if bias is None else np.asarray(bias, dtype=np.float64)
    nc3 = nan
    if size > 1:
        w = weight[filled]
        with np.errstate(divide="ignore", invalid="ignore"):
            nc3 = ((w / np.linalg.norm(w) - centered / np.linalg.norm(centered)) ** 2).sum()
    disagree = ncc_predict(z, m) != (z @ weight.T + bias).argmax(1)
    return NeuralCollapse(nc1, norms_gap, angles_gap, nc3, disagree.mean() if len(z) else nan)
