"""SIGReg, forward and backward, against the published formula: an N x slices x knots tensor each
for the angles, their cosines and their sines. Each contender draws slices, as in training."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from sslkernels.losses import sigreg_loss
from sslkernels.reference.sigreg import slices
from sslkernels.report.speed import Case, Workload, loss_case

KNOTS = 17
SHAPES = [(64, 128, 64), (2048, 512, 1024), (2003, 509, 1021)]
CONTENDERS = ("sslkernels", "published formula, eager", "published formula, torch.compile")

T = torch.linspace(0, 3, KNOTS)
TARGET = torch.exp(-T.square() / 2)
WEIGHTS = torch.full((KNOTS,), 6 / (KNOTS - 1))
WEIGHTS[[0, -1]] /= 2
WEIGHTS *= TARGET


def epps_pulley(z: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    angle = (z @ directions).unsqueeze(-1) * T
    error = (angle.cos().mean(0) - TARGET).square() + angle.sin().mean(0).square()
    return (error @ WEIGHTS).mean() * len(z)


def _build(n: int, d: int, m: int) -> Case:
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).requires_grad_()
    same = torch.from_numpy(slices(m, d)).T.float()  # what ours draws at step 0

    def drawing(formula: Callable[..., torch.Tensor], z: torch.Tensor) -> torch.Tensor:
        """Draws slices for the time that takes, but uses ours, so that results can be compared."""
        drawn = torch.randn(d, m)
        drawn.div_(drawn.norm(dim=0))
        return formula(z, same)

    losses = (
        functools.partial(sigreg_loss, num_slices=m),
        functools.partial(drawing, epps_pulley),
        functools.partial(drawing, torch.compile(epps_pulley)),
    )
    # Projections, once for each pass, and the product that leads back; six operations per knot.
    amount = n * m * (3 * 2.0 * d + 2 * 6 * KNOTS)
    return loss_case(dict(zip(CONTENDERS, losses, strict=True)), (z,), amount)


WORKLOADS = [
    Workload(
        f"SIGReg forward + backward, fp32 ({n}, {d}), {m} slices, {KNOTS} knots",
        CONTENDERS,
        functools.partial(_build, n, d, m),
        rounds=30 if n < 1024 else 5,
    )
    for n, d, m in SHAPES
]
