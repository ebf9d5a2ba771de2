"""VICReg, forward and backward, against the official formula in eager and in compiled torch."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from benchmarks.losses import loss_case, two_views
from benchmarks.registry import Case, Workload
from sslkernels.losses import vicreg_loss

SHAPES = [
    *((64, 128), (256, 2048), (256, 8192), (1024, 8192), (2048, 2048), (2048, 8192)),
    *((257, 5003), (1000, 3001)),
]
CONTENDERS = ("sslkernels", "official, eager", "official, torch.compile")


def _off_diagonal(m: torch.Tensor) -> torch.Tensor:
    """Everything off the diagonal of a square matrix, by a view and without an index."""
    n = m.shape[0]
    return m.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten()


def official_formula(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss as published (arXiv 2105.04906) and as its authors compute it, on one device."""
    n, d = x.shape
    invariance = F.mse_loss(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    std_x, std_y = torch.sqrt(x.var(0) + 1e-4), torch.sqrt(y.var(0) + 1e-4)
    variance = F.relu(1 - std_x).mean() / 2 + F.relu(1 - std_y).mean() / 2
    cov_x, cov_y = x.T @ x / (n - 1), y.T @ y / (n - 1)
    covariance = (_off_diagonal(cov_x).pow(2).sum() + _off_diagonal(cov_y).pow(2).sum()) / d
    return 25.0 * invariance + 25.0 * variance + covariance


def _build(n: int, d: int) -> Case:
    losses = (vicreg_loss, official_formula, torch.compile(official_formula))
    # Two views: half of the symmetric Gram product forward, one full product backward.
    amount = 2 * (1 + 2) * min(n, d) * n * d
    return loss_case(dict(zip(CONTENDERS, losses, strict=True)), two_views(n, d), amount)


WORKLOADS = [
    Workload(
        f"VICReg forward + backward, fp32 ({n}, {d})",
        CONTENDERS,
        functools.partial(_build, n, d),
        rounds=3 if n * d * min(n, d) > 2**31 else 30 if n * d < 2**16 else 7,
    )
    for n, d in SHAPES
]
