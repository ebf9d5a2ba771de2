"""What the drop-ins have in common."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from sslkernels.distributed.barlow_twins_of_ranks import barlow_twins_of_ranks
from sslkernels.distributed.batch import Batch, agree, gather
from sslkernels.losses import _checks
from sslkernels.losses.barlow_twins import barlow_twins_terms
from sslkernels.losses.vicreg import vicreg_terms
from sslkernels.ops.vicreg import VICRegSettings

EPS = 1e-5  # of batch normalization in torch, which the originals of Barlow Twins use


def every_rank() -> Any:
    """The default process group where there is one of several ranks, else None: where the
    originals gather."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist.group.WORLD
    return None


def one_number(value: Any, name: str) -> Any:
    """A weight or a temperature: a tensor of one element as a 0-d tensor, any else as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.numel() != 1 or value.is_complex():
        raise TypeError(
            f"{name}: expected a number or a real tensor of one element, got "
            f"{str(value.dtype)[6:]} of shape {list(value.shape)}"
        )
    return value.reshape(())


def vicreg(
    x: Tensor,
    y: Tensor,
    weights: dict[str, Any],
    eps: float,
    group: Any,
    names: tuple[str, str],
) -> Tensor:
    """VICReg under the names of an original: weights of invariance, variance and covariance.

    Those that are tensors get gradients: then torch adds up the terms.
    """
    invariance, variance, covariance = (one_number(w, name) for name, w in weights.items())
    if any(isinstance(w, Tensor) for w in (invariance, variance, covariance)):
        terms = vicreg_terms(x, y, VICRegSettings(eps=eps), group, names).unbind()
        return invariance * terms[1] + variance * terms[2] + covariance * terms[3]
    settings = VICRegSettings(invariance, variance, covariance, eps=eps)
    return vicreg_terms(x, y, settings, group, names)[0]


def barlow_twins(
    z_a: Tensor,
    z_b: Tensor,
    lambda_: float,
    group: Any,
    names: tuple[str, str],
    *,
    for_averaging: bool,
) -> Tensor:
    """Barlow Twins; with a group, the mean of the ranks' cross-correlations, each of views that the
    rank normalized by itself.

    for_averaging: gradients world_size times the whole loss's, for DDP to average; else as they
    are.
    """
    if group is None:
        return barlow_twins_terms(z_a, z_b, lambda_, EPS, None, names)[0]
    check = partial(_checks.pair, z_a, z_b, min_rows=2, names=names)
    options = ("of ranks", lambda_, for_averaging)
    batch = agree(group, "Barlow Twins", check, (z_a, z_b), options, min_rows=2)
    scale = float(batch.world) if for_averaging else 1.0
    return barlow_twins_of_ranks(z_a, z_b, batch, lambda_, EPS, scale)


def matrix(z: Tensor, name: str) -> None:
    """Middle dimensions are a meaning of ours and lightly's: the other originals refuse them."""
    if z.ndim != 2:
        raise ValueError(f"{name}: takes shape [N, D], got {list(z.shape)}")


def all_rows(batch: Batch, own: Tensor) -> Tensor:
    """Every rank's rows [n, ...], rank after rank."""
    if batch.world == 1:
        return own
    filled = own.new_zeros(max(batch.rows), *own.shape[1:])
    filled[: len(own)] = own
    everyone = gather(batch, filled)
    return torch.cat([rows[:n] for rows, n in zip(everyone, batch.rows, strict=True)])
