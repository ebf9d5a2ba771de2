"""VICReg in float64 NumPy, forming the D x D covariance matrix, and its gradient by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class VICRegTerms(NamedTuple):
    loss: float
    invariance: float
    variance: float
    covariance: float


def _problems(z: Any) -> np.ndarray:
    """[N, D] or [N, ..., D] as [P, N, D] in float64."""
    z = np.asarray(z, dtype=np.float64)
    return np.moveaxis(z.reshape(z.shape[0], -1, z.shape[-1]), 1, 0)


def _off_diagonal_covariance(z: np.ndarray) -> np.ndarray:
    centered = z - z.mean(0)
    covariance = centered.T @ centered / (len(z) - 1)
    np.fill_diagonal(covariance, 0)
    return covariance


def invariance_loss(x: Any, y: Any) -> float:
    difference = np.asarray(x, dtype=np.float64) - np.asarray(y, dtype=np.float64)
    return float((difference**2).mean())


def variance_loss(z: Any, *, gamma: float = 1.0, eps: float = 1e-4) -> float:
    deviation = np.sqrt(_problems(z).var(1, ddof=1) + eps)
    return float(np.maximum(0, gamma - deviation).mean())


def covariance_loss(z: Any) -> float:
    per_problem = [(_off_diagonal_covariance(p) ** 2).sum() / p.shape[1] for p in _problems(z)]
    return float(np.mean(per_problem))


def vicreg_terms(
    x: Any,
    y: Any,
    *,
    sim_coeff: float = 25.0,
    std_coeff: float = 25.0,
    cov_coeff: float = 1.0,
    gamma: float = 1.0,
    eps: float = 1e-4,
) -> VICRegTerms:
    invariance = invariance_loss(x, y)
    variance = (variance_loss(x, gamma=gamma, eps=eps) + variance_loss(y, gamma=gamma, eps=eps)) / 2
    covariance = covariance_loss(x) + covariance_loss(y)
    loss = sim_coeff * invariance + std_coeff * variance + cov_coeff * covariance
    return VICRegTerms(loss, invariance, variance, covariance)


def vicreg_loss(x: Any, y: Any, **settings: float) -> float:
    return vicreg_terms(x, y, **settings).loss


def variance_grad(z: Any, *, gamma: float = 1.0, eps: float = 1e-4) -> np.ndarray:
    """Gradient of :func:`variance_loss`, in z's shape."""
    problems = _problems(z)
    _, n, _ = problems.shape
    centered = problems - problems.mean(1, keepdims=True)
    deviation = np.sqrt(problems.var(1, ddof=1, keepdims=True) + eps)
    slope = np.where(deviation < gamma, -1 / ((n - 1) * deviation), 0)
    columns = problems.shape[0] * problems.shape[2]
    return np.moveaxis(slope * centered / columns, 0, 1).reshape(np.shape(z))


def covariance_grad(z: Any) -> np.ndarray:
    """Gradient of :func:`covariance_loss`, in z's shape."""
    problems = _problems(z)
    count, n, d = problems.shape
    grads = [
        4 / (d * (n - 1) * count) * (p - p.mean(0)) @ _off_diagonal_covariance(p) for p in problems
    ]
    return np.moveaxis(np.stack(grads), 0, 1).reshape(np.shape(z))


def vicreg_grad(
    x: Any,
    y: Any,
    *,
    sim_coeff: float = 25.0,
    std_coeff: float = 25.0,
    cov_coeff: float = 1.0,
    gamma: float = 1.0,
    eps: float = 1e-4,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of :func:`vicreg_loss` by x and by y."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    pull = 2 * sim_coeff * (x - y) / x.size

    def spread(z: np.ndarray) -> np.ndarray:
        return std_coeff / 2 * variance_grad(z, gamma=gamma, eps=eps) + cov_coeff * covariance_grad(
            z
        )

    return pull + spread(x), spread(y) - pull
