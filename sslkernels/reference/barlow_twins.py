"""Barlow Twins in float64 NumPy, forming the D x D cross-correlation, and its gradient by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class BarlowTwinsTerms(NamedTuple):
    loss: float
    on_diagonal: float
    off_diagonal: float


def _normalized(z: Any, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Batch normalization without parameters, and the factor of each column."""
    z = np.asarray(z, dtype=np.float64)
    factor = 1 / np.sqrt(z.var(0) + eps)
    return (z - z.mean(0)) * factor, factor


def barlow_twins_terms(
    x: Any, y: Any, *, lambda_: float = 0.0051, eps: float = 1e-5
) -> BarlowTwinsTerms:
    a, b = _normalized(x, eps)[0], _normalized(y, eps)[0]
    c = a.T @ b / len(a)
    on_diagonal = float(((np.diagonal(c) - 1) ** 2).sum())
    np.fill_diagonal(c, 0)
    off_diagonal = float((c**2).sum())
    return BarlowTwinsTerms(on_diagonal + lambda_ * off_diagonal, on_diagonal, off_diagonal)


def barlow_twins_loss(x: Any, y: Any, *, lambda_: float = 0.0051, eps: float = 1e-5) -> float:
    return barlow_twins_terms(x, y, lambda_=lambda_, eps=eps).loss


def barlow_twins_grad(
    x: Any,
    y: Any,
    *,
    lambda_: float = 0.0051,
    eps: float = 1e-5,
    weights: tuple[float, float, float] = (1.0, 0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients by x and y of the terms, weighted."""
    (a, a_factor), (b, b_factor) = _normalized(x, eps), _normalized(y, eps)
    n = len(a)
    c = a.T @ b / n
    on_c = 2 * (weights[0] * lambda_ + weights[2]) * c
    np.fill_diagonal(on_c, 2 * (weights[0] + weights[1]) * (np.diagonal(c) - 1))

    def through(unit: np.ndarray, factor: np.ndarray, g: np.ndarray) -> np.ndarray:
        return factor * (g - g.mean(0) - unit * (g * unit).mean(0))

    return through(a, a_factor, b @ on_c.T / n), through(b, b_factor, a @ on_c / n)
