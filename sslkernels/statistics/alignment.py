r"""Alignment and uniformity of embeddings on the unit sphere.

Wang, Isola, "Understanding contrastive representation learning through alignment and uniformity on
the hypersphere" (ICML 2020, arXiv 2005.10242), with every row divided by its length::

    alignment   E ||x - y||^a               over the pairs of views (x, y) of a sample, a = 2
    uniformity  log E exp(-t ||z - z'||^2)  over all pairs of distinct rows, t = 2

Uniformity is a symmetric Gram matrix reduced by tiles, with
``||z - z'||^2 = ||z||^2 + ||z'||^2 - 2 z . z'`` on the upper triangle: each tile to its largest
exponent and the sum of exponentials relative to it, the tiles joined in float64. No N x N matrix,
and no underflow for any t.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from sslkernels import _checks
from sslkernels._gate import gated
from sslkernels.numerics.unit_rows import normalized
from sslkernels.statistics import _rows

_TILE = 2048  # rows per side of a tile of pairs


@gated
def alignment(x: Any, y: Any, *, alpha: float = 2.0) -> Any:
    """How far two views of a sample lie apart: the mean of ``||x / ||x|| - y / ||y||||^alpha``.

    Args:
        x, y: [N, D] embeddings of two views, tensors or NumPy arrays: fp16, bf16, fp32 or fp64. A
            row of zeros has no direction and stays zero.
        alpha: the exponent, positive.

    Returns:
        float64 0-d tensor (a NumPy scalar if ``x`` is a NumPy array); NaN without rows.

    Raises:
        ValueError: wrong shape or device, alpha not positive.
        TypeError: wrong dtype.

    Differences and sums in float64.

    Example:
        >>> import torch, sslkernels as ssk
        >>> float(ssk.alignment(torch.tensor([[2., 0.]]), torch.tensor([[0., 5.]])))
        2.0
    """
    a = _checks.embeddings(_checks.as_tensor(x, "x"), "x")
    b = _checks.embeddings(_checks.as_tensor(y, "y"), "y")
    if a.shape != b.shape:
        raise ValueError(f"y: expected shape {list(a.shape)} to match x, got {list(b.shape)}")
    if a.device != b.device:
        raise ValueError(f"y: is on {b.device}, x is on {a.device}")
    power = _positive(alpha, "alpha") / 2
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for p, q in zip(a.split(_rows.BLOCK), b.split(_rows.BLOCK), strict=True):
        total += (normalized(p) - normalized(q)).square().sum(1).pow(power).sum()
    return _rows.result(total / len(a), x)


@gated
def uniformity(z: Any, *, t: float = 2.0) -> Any:
    """Logarithm of the mean Gaussian potential of all pairs of rows on the unit sphere.

    Args:
        z: [N, D] embeddings, tensor or NumPy array: fp16, bf16, fp32 or fp64. A row of zeros has
            no direction and stays zero.
        t: the scale, positive.

    Returns:
        float64 0-d tensor (a NumPy scalar if ``z`` is a NumPy array): 0 when all rows point the
        same way, lower the more evenly they spread; NaN with fewer than two rows.

    Raises:
        ValueError: wrong shape, t not positive.
        TypeError: wrong dtype.

    Cost: N^2 D operations. Products of unit rows in float32 (float64 for float64 input), following
    ``torch.get_float32_matmul_precision()``: each exponent is off by a few t eps, the result by no
    more. Sums in float64. Memory: unit rows [N, D] and one tile.

    Example:
        >>> import torch, sslkernels as ssk
        >>> float(ssk.uniformity(torch.tensor([[3., 0.], [-1., 0.]])))
        -8.0
    """
    rows = _checks.embeddings(_checks.as_tensor(z, "z"))
    scale = _positive(t, "t")
    n = len(rows)
    if n < 2:
        return _rows.result(torch.full((), torch.nan, dtype=torch.float64, device=rows.device), z)
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    parts = [normalized(x).to(dtype) for x in rows.split(_TILE)]
    peaks, sums = [], []
    for i, a in enumerate(parts):
        for j, b in enumerate(parts[i:]):
            peak, potential = _potentials(a, b, scale, same=j == 0)
            peaks.append(peak)
            sums.append(potential)
    total = torch.logsumexp(torch.stack(peaks) + torch.stack(sums).log(), 0)
    return _rows.result(total - math.log(n * (n - 1) / 2), z)


def _potentials(
    a: torch.Tensor, b: torch.Tensor, t: float, *, same: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(peak, sum of exp(-t ||a_i - b_j||^2 - peak))`` in float64; over i < j when b is a."""
    lengths = a.square().sum(1).unsqueeze(1) + b.square().sum(1)  # 1 + 1, or less for zero rows
    exponents = torch.addmm(lengths, a, b.T, beta=-t, alpha=2 * t)
    if same:
        below = torch.ones_like(exponents, dtype=torch.bool).tril_()
        exponents.masked_fill_(below, -torch.inf)
    peak = exponents.amax()
    anchor = peak.masked_fill(peak == -torch.inf, 0.0)  # a tile of one row holds no pair
    return anchor.double(), exponents.sub_(anchor).exp_().sum(dtype=torch.float64)


def _positive(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return float(value)
