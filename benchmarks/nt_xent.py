"""NT-Xent, forward and backward, against the formula as lightly computes it: four N x N blocks of
logits, their diagonals taken out by a mask, and cross-entropy of the 2N x (2N - 1) rest."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from sslkernels.losses import nt_xent_loss
from sslkernels.report.speed import Case, Workload, loss_case, two_views

TEMPERATURE = 0.5
SHAPES = [(64, 128), (1024, 128), (4096, 128), (1009, 131)]
CONTENDERS = ("sslkernels", "lightly's formula, eager", "masked 2N x 2N, torch.compile")


def lightly_formula(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    n = len(x)
    others = ~torch.eye(n, dtype=torch.bool)
    xx, xy, yx, yy = (torch.einsum("nc,mc->nm", a, b) / TEMPERATURE for a in (x, y) for b in (x, y))
    first = torch.cat((xy, xx[others].view(n, -1)), 1)
    second = torch.cat((yx, yy[others].view(n, -1)), 1)
    return F.cross_entropy(torch.cat((first, second)), torch.arange(n).repeat(2))


def masked_formula(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same loss in a form without boolean indexing, which compilers handle."""
    u = F.normalize(torch.cat((x, y)), dim=1)
    logits = (u @ u.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    n = len(x)
    return F.cross_entropy(logits, torch.arange(2 * n).roll(n))


def _build(n: int, d: int) -> Case:
    ours = functools.partial(nt_xent_loss, temperature=TEMPERATURE)
    losses = (ours, lightly_formula, torch.compile(masked_formula))
    # Half of the symmetric product, twice, and one whole product with its result.
    amount = 2 * (2 * n) ** 2 * d * (0.5 + 0.5 + 1)
    return loss_case(dict(zip(CONTENDERS, losses, strict=True)), two_views(n, d), amount)


WORKLOADS = [
    Workload(
        f"NT-Xent forward + backward, fp32 N = {n} ({2 * n} views), D = {d}",
        CONTENDERS,
        functools.partial(_build, n, d),
        rounds=30 if n < 1024 else 5,
    )
    for n, d in SHAPES
]
