"""The spectrum in float64 NumPy, by the singular values of the whole matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sslkernels.reference.class_moments import ClassMoments, class_moments


class Spectrum(NamedTuple):
    eigenvalues: np.ndarray
    rankme: np.float64
    effective_rank: np.float64
    participation_ratio: np.float64
    stable_rank: np.float64
    alpha: np.float64


def spectrum(
    z: Any,
    labels: Any = None,
    num_classes: int | None = None,
    *,
    alpha_ranks: tuple[int, int] = (4, 100),
    ignore_index: int = -100,
) -> Spectrum:
    z = np.asarray(z, dtype=np.float64)
    labels = np.zeros(len(z), dtype=np.int64) if labels is None else np.asarray(labels)
    m = class_moments(z, labels, num_classes or 1, ignore_index=ignore_index)
    assert isinstance(m, ClassMoments)
    z, labels = z[labels != ignore_index], labels[labels != ignore_index]
    nan = np.float64(np.nan)
    if not len(z):
        return Spectrum(np.empty(0), nan, nan, nan, nan, nan)
    s = np.linalg.svd(z - m.means[labels], compute_uv=False)
    values = s**2 / len(z)
    with np.errstate(invalid="ignore"):
        q = s / s.sum()
        entropy = -(q[q > 0] * np.log(q[q > 0])).sum() if s.any() else nan
        return Spectrum(
            values,
            rankme(np.linalg.svd(z, compute_uv=False)),
            np.exp(entropy),
            values.sum() ** 2 / (values**2).sum(),
            values.sum() / values[0],
            alpha_req(values, alpha_ranks=alpha_ranks),
        )


def rankme(singular_values: Any, *, eps: float = 1e-7) -> np.float64:
    s = np.asarray(singular_values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        p = s / s.sum() + eps
    return np.exp(-(p * np.log(p)).sum())


def alpha_req(eigenvalues: Any, *, alpha_ranks: tuple[int, int] = (4, 100)) -> np.float64:
    values = np.asarray(eigenvalues, dtype=np.float64)
    ranks = np.arange(1, len(values) + 1)
    floor = len(values) * np.finfo(np.float64).eps * values[:1].sum()
    used = (ranks >= alpha_ranks[0]) & (ranks <= alpha_ranks[1]) & (values > floor)
    if used.sum() < 2:
        return np.float64(np.nan)
    # polyfit's weights multiply the residuals, so that their squares are 1 / rank.
    x, y = np.log(ranks[used]), np.log(values[used])
    return np.float64(-np.polyfit(x, y, 1, w=ranks[used] ** -0.5)[0])
