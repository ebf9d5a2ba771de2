"""What the drop-ins have in common."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from sslkernels.distributed.barlow_twins_of_ranks import barlow_twins_of_ranks
from sslkernels.distributed.batch import agree
from sslkernels.distributed.vicreg import vicreg as _vicreg_of_batch
from sslkernels.losses import _checks
from sslkernels.losses.barlow_twins import barlow_twins_terms
from sslkernels.losses.vicreg import vicreg_terms
from sslkernels.passes.vicreg import VICRegSettings

EPS = 1e-5  # of batch normalization in torch, which the originals of Barlow Twins use


def every_rank() -> Any:
    """The default process group where there is one of several ranks, else None: where the
    originals gather."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist.group.WORLD
    return None


def vicreg(
    x: Tensor,
    y: Tensor,
    weights: Mapping[str, float | Tensor],
    eps: float,
    group: Any,
    names: tuple[str, str],
) -> Tensor:
    """VICReg under an original's names: weights of invariance, variance and covariance."""
    for name, weight in weights.items():
        _checks.weight(weight, name)
    invariance, variance, covariance = weights.values()
    settings = VICRegSettings(invariance, variance, covariance, eps=eps)
    return vicreg_terms(x, y, settings, group, names)[0]


def vicreg_of_ranks(
    x: Tensor,
    y: Tensor,
    weights: Mapping[str, float | Tensor],
    group: Any,
    names: tuple[str, str],
    nominal: int | None = None,
) -> list[Tensor]:
    """The loss and its terms, of views [n, D] of all ranks; what is wrong on one is an error on
    all.

    nominal: the number of rows that covariances are divided by, less one, if not that of the batch.
    """

    def check() -> None:
        _checks.pair(x, y, min_rows=1, names=names)
        for name, weight in weights.items():
            _checks.weight(weight, name)

    fixed = ["a tensor" if isinstance(w, Tensor) else w for w in weights.values()]
    options = (*weights, *fixed, nominal)
    batch = agree(group, "VICReg", check, (x, y), options, min_rows=2)
    _, *terms = _vicreg_of_batch(x, y, batch, VICRegSettings()).unbind()
    if nominal is not None:
        terms[2] = terms[2] * ((batch.total - 1) / (nominal - 1)) ** 2
    invariance, variance, covariance = map(_checks.times, weights.values(), terms)
    return [invariance + variance + covariance, *terms]


def divisor(temperature: float | Tensor, z: Tensor) -> Tensor:
    """A checked temperature as a 0-d float64 tensor on z's device."""
    if isinstance(temperature, Tensor):
        return temperature.reshape(()).to(z.device, torch.float64)
    # By a product: a graph of torch.compile then holds for other numbers.
    return z.new_ones((), dtype=torch.float64) * temperature


def barlow_twins(
    z_a: Tensor,
    z_b: Tensor,
    lambda_: float | Tensor,
    name: str,
    group: Any,
    names: tuple[str, str],
    *,
    for_averaging: bool,
) -> Tensor:
    """Barlow Twins; with a group, the mean of the ranks' cross-correlations, each of views that the
    rank normalized by itself.

    name: of lambda_ in the original.
    for_averaging: gradients world_size times the whole loss's, for DDP to average; else as they
    are.
    """
    _checks.weight(lambda_, name)
    if group is None:
        return barlow_twins_terms(z_a, z_b, lambda_, EPS, None, names)[0]
    check = partial(_checks.pair, z_a, z_b, min_rows=2, names=names)
    number = 0.0 if isinstance(lambda_, Tensor) else lambda_
    options = ("of ranks", number, for_averaging)
    batch = agree(group, "Barlow Twins", check, (z_a, z_b), options, min_rows=2)
    scale = float(batch.world) if for_averaging else 1.0
    on_diagonal, off_diagonal = barlow_twins_of_ranks(z_a, z_b, batch, EPS, scale).unbind()
    return on_diagonal + _checks.times(lambda_, off_diagonal)


def matrix(z: Tensor, name: str) -> None:
    """Middle dimensions are a meaning of ours and lightly's: the other originals refuse them."""
    if z.ndim != 2:
        raise ValueError(f"{name}: expected shape [N, D], got {list(z.shape)}")
