"""solo-learn's losses: ``from sslkernels.compat.solo import vicreg_loss_func, barlow_loss_func,
simclr_loss_func``.

Names, arguments, defaults and conventions of ``solo.losses``. As there, the batches of all ranks
are gathered wherever torch.distributed is initialised.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sslkernels._checks import INT_DTYPES
from sslkernels.compat._shared import (
    barlow_twins,
    divisor,
    every_rank,
    matrix,
    vicreg,
    vicreg_of_ranks,
)
from sslkernels.compat._simclr import simclr
from sslkernels.distributed.batch import agree
from sslkernels.losses import _checks
from sslkernels.losses.nt_xent import MIN_TEMPERATURE


def vicreg_loss_func(
    z1: Tensor,
    z2: Tensor,
    sim_loss_weight: float | Tensor = 25.0,
    var_loss_weight: float | Tensor = 25.0,
    cov_loss_weight: float | Tensor = 1.0,
) -> Tensor:
    """VICReg as ``solo.losses.vicreg_loss_func``: the variance terms of the two views are SUMMED,
    where the authors take their mean.

    Args:
        z1: projected features of the first view, [N, D].
        z2: those of the second view.
        sim_loss_weight: weight of the invariance term; a tensor of one number gets its gradient,
            and so for the other weights.
        var_loss_weight: weight of the variance term.
        cov_loss_weight: weight of the covariance term.

    Example:
        >>> import torch
        >>> from sslkernels.compat.solo import vicreg_loss_func
        >>> z = torch.tensor([[0.0], [0.0]])  # a standard deviation of sqrt(1e-4)
        >>> vicreg_loss_func(z, z, var_loss_weight=1.0)  # 0.99 + 0.99
        tensor(1.9800)
    """
    weights = {
        "sim_loss_weight": sim_loss_weight,
        "var_loss_weight": 2 * var_loss_weight,
        "cov_loss_weight": cov_loss_weight,
    }
    names, group = ("z1", "z2"), every_rank()
    if group is not None:
        return vicreg_of_ranks(z1, z2, weights, group, names)[0]
    matrix(z1, "z1")
    return vicreg(z1, z2, weights, 1e-4, None, names)


def barlow_loss_func(
    z1: Tensor, z2: Tensor, lamb: float | Tensor = 5e-3, scale_loss: float | Tensor = 0.025
) -> Tensor:
    """Barlow Twins as ``solo.losses.barlow_loss_func``: the whole loss times ``scale_loss``.

    Over several ranks, each normalizes by its own statistics and their cross-correlations are
    averaged. As in the original, gradients are then those of the loss itself, not world_size times
    as large: averaged by DDP, they are 1 / world_size of what lightly's train with.

    Args:
        z1: projected features of the first view, [N, D].
        z2: those of the second view.
        lamb: weight of the off-diagonal term; a tensor of one number gets its gradient.
        scale_loss: factor of the loss; likewise.

    Example:
        >>> import torch
        >>> from sslkernels.compat.solo import barlow_loss_func
        >>> z = torch.tensor([[0.0, 0.0], [2.0, 2.0]])  # two equal columns
        >>> barlow_loss_func(z, z, lamb=0.5, scale_loss=2.0)
        tensor(2.0000)
    """
    names = ("z1", "z2")
    _checks.weight(scale_loss, "scale_loss")
    loss = barlow_twins(z1, z2, lamb, "lamb", every_rank(), names, for_averaging=False)
    return _checks.times(scale_loss, loss)


def simclr_loss_func(z: Tensor, indexes: Tensor, temperature: float | Tensor = 0.1) -> Tensor:
    """SimCLR's loss as ``solo.losses.simclr_loss_func``.

    Rows of the same index are each other's positives:

        loss = mean over i of log sum_{k != i} exp(s_ik) - log sum_{positives k of i} exp(s_ik)

    Two views of every sample are the NT-Xent loss. More views, or labels for indexes, are torch
    operations on every backend, without a matrix of all rows by all rows. Looking at the indexes
    waits for the device.

    Args:
        z: projected features of all views, [N, D].
        indexes: integers [N]: which sample a row is a view of, or its label.
        temperature: what cosines are divided by; at least 1e-6. A tensor of one number gets its
            gradient.

    Returns:
        A 0-d tensor; infinite if an index occurs only once, as in the original.

    Example:
        >>> import torch
        >>> from sslkernels.compat.solo import simclr_loss_func
        >>> z = torch.eye(2).repeat(2, 1)
        >>> simclr_loss_func(z, torch.tensor([7, 9, 7, 9]), temperature=1.0)  # log(1 + 2 / e)
        tensor(0.5514)
    """
    check = partial(_check_simclr, z, indexes, temperature)
    group = every_rank()
    batch = None
    if group is None:
        check()
    else:
        fixed = "a tensor" if isinstance(temperature, Tensor) else temperature
        batch = agree(group, "NT-Xent", check, (z,), ("labels", fixed), min_rows=1)
    labels = indexes.to(z.device, torch.int64)
    return simclr(z, labels, divisor(temperature, z), batch)


def _check_simclr(z: Tensor, indexes: Tensor, temperature: float | Tensor) -> None:
    _checks.view(z, "z", 1)
    if indexes.dtype not in INT_DTYPES:
        raise TypeError(f"indexes: expected integers, got {str(indexes.dtype)[6:]}")
    if indexes.shape != z.shape[:1]:
        raise ValueError(
            f"indexes: expected shape [{z.shape[0]}] to match z, got {list(indexes.shape)}"
        )
    _checks.weight(temperature, "temperature", MIN_TEMPERATURE)
