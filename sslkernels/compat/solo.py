"""solo-learn's losses: ``from sslkernels.compat.solo import vicreg_loss_func, barlow_loss_func,
simclr_loss_func``.

Names, arguments, defaults and conventions of ``solo.losses``. As there, the batches of all ranks
are gathered wherever torch.distributed is initialised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels._checks import INT_DTYPES
from sslkernels.compat._shared import barlow_twins, every_rank, matrix
from sslkernels.losses.nt_xent import nt_xent_terms
from sslkernels.losses.vicreg import vicreg_terms
from sslkernels.ops.vicreg import VICRegSettings


def vicreg_loss_func(
    z1: Tensor,
    z2: Tensor,
    sim_loss_weight: float = 25.0,
    var_loss_weight: float = 25.0,
    cov_loss_weight: float = 1.0,
) -> Tensor:
    """VICReg as ``solo.losses.vicreg_loss_func``: the variance terms of the two views are SUMMED,
    where the authors take their mean.

    Args:
        z1: projected features of the first view, [N, D].
        z2: those of the second view.
        sim_loss_weight: weight of the invariance term.
        var_loss_weight: weight of the variance term.
        cov_loss_weight: weight of the covariance term.

    Example:
        >>> import torch
        >>> from sslkernels.compat.solo import vicreg_loss_func
        >>> z = torch.tensor([[0.0], [0.0]])  # a standard deviation of sqrt(1e-4)
        >>> vicreg_loss_func(z, z, var_loss_weight=1.0)  # 0.99 + 0.99
        tensor(1.9800)
    """
    matrix(z1, "z1")
    settings = VICRegSettings(sim_loss_weight, 2 * var_loss_weight, cov_loss_weight)
    return vicreg_terms(z1, z2, settings, every_rank(), ("z1", "z2"))[0]


def barlow_loss_func(
    z1: Tensor, z2: Tensor, lamb: float = 5e-3, scale_loss: float = 0.025
) -> Tensor:
    """Barlow Twins as ``solo.losses.barlow_loss_func``: the whole loss times ``scale_loss``.

    Over several ranks, each normalizes by its own statistics and their cross-correlations are
    averaged. As in the original, gradients are then those of the loss itself, not world_size times
    as large: averaged by DDP, they are 1 / world_size of what lightly's train with.

    Args:
        z1: projected features of the first view, [N, D].
        z2: those of the second view.
        lamb: weight of the off-diagonal term.
        scale_loss: factor of the loss.

    Example:
        >>> import torch
        >>> from sslkernels.compat.solo import barlow_loss_func
        >>> z = torch.tensor([[0.0, 0.0], [2.0, 2.0]])  # two equal columns
        >>> barlow_loss_func(z, z, lamb=0.5, scale_loss=2.0)
        tensor(2.0000)
    """
    names = ("z1", "z2")
    return scale_loss * barlow_twins(z1, z2, lamb, every_rank(), names, for_averaging=False)


def simclr_loss_func(z: Tensor, indexes: Tensor, temperature: float = 0.1) -> Tensor:
    """SimCLR's loss as ``solo.losses.simclr_loss_func``.

    Rows of the same index are each other's positives:

        loss = mean over i of log sum_{k != i} exp(s_ik) - log sum_{positives k of i} exp(s_ik)

    Two views of every sample are the NT-Xent loss. With more views, or with labels for indexes, the
    first sum still runs without a matrix of all rows by all rows; the second takes for every index
    the square of how often the commonest one occurs. Looking at the indexes waits for the device.
    Over several ranks, the rows of one index must be on one of them; with more than two views the
    value is that of this rank's rows, whose mean over ranks is the batch's.

    Args:
        z: projected features of all views, [N, D].
        indexes: integers [N]: which sample a row is a view of, or its label.
        temperature: what cosines are divided by; at least 1e-6.

    Returns:
        A 0-d tensor; infinite if an index occurs only once, as in the original.

    Raises:
        NotImplementedError: indexes that do not come in pairs, and an odd number of rows.

    Example:
        >>> import torch
        >>> from sslkernels.compat.solo import simclr_loss_func
        >>> z = torch.eye(2).repeat(2, 1)
        >>> simclr_loss_func(z, torch.tensor([7, 9, 7, 9]), temperature=1.0)  # log(1 + 2 / e)
        tensor(0.5514)
    """
    matrix(z, "z")
    if indexes.dtype not in INT_DTYPES:
        raise TypeError(f"indexes: takes integers, got {str(indexes.dtype)[6:]}")
    if indexes.shape != z.shape[:1]:
        raise ValueError(
            f"indexes: takes shape [{z.shape[0]}] to match z, got {list(indexes.shape)}"
        )
    group = every_rank()
    values, order = indexes.to(z.device).sort(stable=True)
    _, sample, counts = values.unique_consecutive(return_inverse=True, return_counts=True)
    if bool((counts == 2).all()):
        first, second = order.view(-1, 2).unbind(1)
        return nt_xent_terms(z[first], z[second], temperature, group, ("z", "z"))[0]

    half, odd = divmod(z.shape[0], 2)
    if odd:
        raise NotImplementedError(
            f"z: takes an even number of rows where indexes do not come in pairs, got {len(z)}"
        )
    uniformity = nt_xent_terms(z[:half], z[half:], temperature, group, ("z", "z"))[2]
    return uniformity - _positives(z, order, sample, counts, temperature)


def _positives(
    z: Tensor,  # [N, D]
    order: Tensor,  # [N], rows in the order of their index
    sample: Tensor,  # [N], which distinct index that is
    counts: Tensor,  # [samples], how often each occurs
    temperature: float,
) -> Tensor:
    """The mean over rows of log sum exp of the logits of their positives."""
    place = torch.arange(len(z), device=z.device) - (counts.cumsum(0) - counts)[sample]
    size = int(counts.max())
    with torch.autocast(z.device.type, enabled=False):
        u = F.normalize(z.double() if z.dtype == torch.float64 else z.float())[order]
        slots = u.new_zeros(len(counts), size, u.shape[1]).index_put((sample, place), u)
        taken = torch.arange(size, device=z.device) < counts.unsqueeze(1)
        itself = torch.eye(size, dtype=torch.bool, device=z.device)
        logits = (slots @ slots.mT).div(temperature)[sample, place]
        logits = logits.masked_fill(~taken[sample] | itself[place], -torch.inf)
        return logits.logsumexp(1).mean()
