"""Barlow Twins, forward and backward, against the formula that its authors and lightly compute."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from sslkernels.losses import barlow_twins_loss
from sslkernels.report.speed import Case, Workload, loss_case, two_views

SHAPES = [(64, 128), (256, 8192), (2048, 2048), (257, 5003), (1000, 3001)]
CONTENDERS = ("sslkernels", "published formula, eager", "published formula, torch.compile")


def published_formula(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Batch normalization, the whole D x D matrix, and its two parts (arXiv 2103.03230)."""
    a, b = (F.batch_norm(z, None, None, training=True) for z in (x, y))
    c = a.T @ b / len(x)
    d = c.shape[0]
    on_diagonal = (c.diagonal() - 1).square().sum()
    off_diagonal = c.flatten()[:-1].view(d - 1, d + 1)[:, 1:].square().sum()
    return on_diagonal + 0.0051 * off_diagonal


def _build(n: int, d: int) -> Case:
    losses = (barlow_twins_loss, published_formula, torch.compile(published_formula))
    # Two half products forward and two products backward, on the cheaper side; square problems
    # have one whole product forward.
    amount = 2 * (1 + 2) * min(n, d) * n * d
    return loss_case(dict(zip(CONTENDERS, losses, strict=True)), two_views(n, d), amount)


WORKLOADS = [
    Workload(
        f"Barlow Twins forward + backward, fp32 ({n}, {d})",
        CONTENDERS,
        functools.partial(_build, n, d),
        rounds=30 if n * d < 2**16 else 5,
    )
    for n, d in SHAPES
]
