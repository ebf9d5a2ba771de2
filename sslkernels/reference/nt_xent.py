"""NT-Xent in float64 NumPy, forming the 2N x 2N matrix of logits, and its gradient by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class NTXentTerms(NamedTuple):
    loss: float
    alignment: float
    uniformity: float


def _softmax(x: Any, y: Any, temperature: float) -> tuple[np.ndarray, ...]:
    """Unit rows [2N, D], norms [2N, 1], and of each row the logits' maximum (the row itself left
    out), the exponentials below it, and the position of its positive."""
    z = np.concatenate([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    length = np.maximum(np.sqrt((z**2).sum(1, keepdims=True)), 1e-12)
    unit = z / length
    logits = unit @ unit.T / temperature
    np.fill_diagonal(logits, -np.inf)
    highest = logits.max(1, keepdims=True)
    positive = np.roll(np.arange(len(z)), len(z) // 2)
    return unit, length, logits, highest, np.exp(logits - highest), positive


def nt_xent_terms(x: Any, y: Any, *, temperature: float = 0.5) -> NTXentTerms:
    _, _, logits, highest, exponentials, positive = _softmax(x, y, temperature)
    rows = np.arange(len(logits))
    at_positive = logits[rows, positive]
    rest = exponentials.copy()
    rest[rows, positive] = 0
    with np.errstate(divide="ignore"):
        gap = highest[:, 0] + np.log(rest.sum(1)) - at_positive
    loss = np.logaddexp(0, gap)  # log(1 + rest / positive), so that a small loss keeps its digits
    return NTXentTerms(
        float(loss.mean()), float(-at_positive.mean()), float((loss + at_positive).mean())
    )


def nt_xent_loss(x: Any, y: Any, *, temperature: float = 0.5) -> float:
    return nt_xent_terms(x, y, temperature=temperature).loss


def nt_xent_grad(
    x: Any,
    y: Any,
    *,
    temperature: float = 0.5,
    weights: tuple[float, float, float] = (1.0, 0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients by x and y of the terms, weighted."""
    unit, length, _, _, exponentials, positive = _softmax(x, y, temperature)
    rows = np.arange(len(unit))
    share = exponentials / exponentials.sum(1, keepdims=True)
    rest = exponentials.copy()
    rest[rows, positive] = 0
    missing = rest.sum(1) / exponentials.sum(1)  # 1 - share of the positive
    on_logits = (weights[0] + weights[2]) * share
    on_logits[rows, positive] = weights[2] - weights[1] - (weights[0] + weights[2]) * missing
    on_logits /= len(unit)
    on_unit = (on_logits + on_logits.T) @ unit / temperature
    inside = np.where(length > 1e-12, (on_unit * unit).sum(1, keepdims=True), 0)
    grad = (on_unit - inside * unit) / length
    return grad[: len(grad) // 2], grad[len(grad) // 2 :]
