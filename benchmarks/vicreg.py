"""VICReg, forward and backward, against the official formula in eager and in compiled torch."""

from __future__ import annotations

import functools

import torch

from sslkernels.losses import vicreg_loss
from sslkernels.report.speed import Case, Workload, loss_case, official_vicreg, two_views

SHAPES = [
    *((64, 128), (256, 2048), (256, 8192), (1024, 8192), (2048, 2048), (2048, 8192)),
    *((257, 5003), (1000, 3001)),
]
CONTENDERS = ("sslkernels", "official, eager", "official, torch.compile")


def _build(n: int, d: int) -> Case:
    losses = (vicreg_loss, official_vicreg, torch.compile(official_vicreg))
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
