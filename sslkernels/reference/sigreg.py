"""SIGReg in float64 NumPy, knot by knot, and its gradient by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class SIGRegTerms(NamedTuple):
    loss: float
    real: float
    imaginary: float


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox 4x32-10: counters [..., 4] to random words [..., 4], all below 2^32 in uint64."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    c = [counter[..., i].astype(np.uint64) for i in range(4)]
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> half) ^ c[1] ^ k0, p1 & low, (p0 >> half) ^ c[3] ^ k1, p0 & low]
        k0 = (k0 + np.uint64(0x9E3779B9)) & low
        k1 = (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack(c, -1)


def slices(num_slices: int, dim: int, *, seed: int = 0, step: int = 0) -> np.ndarray:
    """Unit rows [num_slices, dim], normal before normalization: element d of slice m comes from
    word d % 4 of the counter (d // 4, m, step's low and high half), with the seed as key."""
    quads = -(-dim // 4)
    counter = np.zeros((num_slices, quads, 4), dtype=np.uint64)
    counter[..., 0] = np.arange(quads)
    counter[..., 1] = np.arange(num_slices)[:, None]
    counter[..., 2] = step & 0xFFFFFFFF
    counter[..., 3] = step >> 32
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32)) >> np.uint64(8)
    radius = np.sqrt(-2 * np.log((words[..., 0::2] + 1.0) / 2**24))
    angle = 2 * np.pi * words[..., 1::2] / 2**24
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    normal = normal.reshape(num_slices, -1)[:, :dim]
    length = np.sqrt((normal**2).sum(1, keepdims=True))
    return normal / np.where(length > 0, length, 1)


def _knots(num_knots: int, t_min: float, t_max: float) -> tuple[np.ndarray, ...]:
    """Knots, the normal distribution's characteristic function at each, and their weights."""
    t = np.linspace(t_min, t_max, num_knots)
    target = np.exp(-(t**2) / 2)
    weight = np.full(num_knots, 2 * (t_max - t_min) / (num_knots - 1))
    weight[[0, -1]] /= 2
    return t, target, weight * target


def sigreg_terms(
    z: Any,
    *,
    num_slices: int = 1024,
    num_knots: int = 17,
    t_min: float = 0.0,
    t_max: float = 3.0,
    scale_by_n: bool = True,
    seed: int = 0,
    step: int = 0,
) -> SIGRegTerms:
    z = np.asarray(z, dtype=np.float64)
    p = z @ slices(num_slices, z.shape[1], seed=seed, step=step).T
    real = imaginary = 0.0
    for t, target, weight in zip(*_knots(num_knots, t_min, t_max), strict=True):
        real += weight * ((np.cos(t * p).mean(0) - target) ** 2).mean()
        imaginary += weight * (np.sin(t * p).mean(0) ** 2).mean()
    scale = len(z) if scale_by_n else 1
    return SIGRegTerms(
        float(scale * (real + imaginary)), float(scale * real), float(scale * imaginary)
    )


def sigreg_loss(z: Any, **settings: Any) -> float:
    return sigreg_terms(z, **settings).loss


def sigreg_grad(
    z: Any,
    *,
    num_slices: int = 1024,
    num_knots: int = 17,
    t_min: float = 0.0,
    t_max: float = 3.0,
    scale_by_n: bool = True,
    seed: int = 0,
    step: int = 0,
    weights: tuple[float, float, float] = (1.0, 0.0, 0.0),
) -> np.ndarray:
    """Gradient by z of the terms, weighted."""
    z = np.asarray(z, dtype=np.float64)
    directions = slices(num_slices, z.shape[1], seed=seed, step=step)
    p = z @ directions.T
    on_p = np.zeros_like(p)
    for t, target, weight in zip(*_knots(num_knots, t_min, t_max), strict=True):
        on_real = (weights[0] + weights[1]) * 2 * weight * (np.cos(t * p).mean(0) - target)
        on_imaginary = (weights[0] + weights[2]) * 2 * weight * np.sin(t * p).mean(0)
        on_p += t * (on_imaginary * np.cos(t * p) - on_real * np.sin(t * p))
    scale = len(z) if scale_by_n else 1
    return scale / (len(z) * num_slices) * on_p @ directions
