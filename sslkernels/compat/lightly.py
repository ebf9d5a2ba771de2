"""lightly's losses: ``from sslkernels.compat.lightly import VICRegLoss, BarlowTwinsLoss,
NTXentLoss``.

Names, arguments, defaults and conventions of ``lightly.loss``. Losses of half-precision views come
in float32, and gradients in the views' dtype.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from sslkernels.compat._shared import every_rank
from sslkernels.losses import barlow_twins_loss, nt_xent_loss, vicreg_loss


class VICRegLoss(torch.nn.Module):
    """VICReg as ``lightly.loss.VICRegLoss``.

    Args:
        lambda_param: weight of the invariance term.
        mu_param: weight of the variance term, half the sum over the two views.
        nu_param: weight of the covariance term, the sum over the two views.
        gather_distributed: variance and covariance over the batches of all ranks.
        eps: added to variances before the square root.

    Raises:
        ValueError: gather_distributed where torch.distributed is not available.

    Example:
        >>> import torch
        >>> from sslkernels.compat.lightly import VICRegLoss
        >>> z = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
        >>> VICRegLoss(lambda_param=1.0)(z, z + 1)  # invariance 1, variance 0, covariance 4 + 4
        tensor(9.)
    """

    def __init__(
        self,
        lambda_param: float = 25.0,
        mu_param: float = 25.0,
        nu_param: float = 1.0,
        gather_distributed: bool = False,
        eps: float = 0.0001,
    ) -> None:
        super().__init__()
        _check_gather(gather_distributed)
        self.lambda_param = lambda_param
        self.mu_param = mu_param
        self.nu_param = nu_param
        self.gather_distributed = gather_distributed
        self.eps = eps

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of two views (batch_size, ..., dim), the mean over the dimensions between.

        Raises:
            AssertionError: a batch of fewer than two, or views of different shapes.
            ValueError: the same of a batch that is gathered, on every rank.
        """
        group = every_rank() if self.gather_distributed else None
        if group is None:
            _assert_views(z_a, z_b)
        return vicreg_loss(
            z_a,
            z_b,
            sim_coeff=self.lambda_param,
            std_coeff=self.mu_param,
            cov_coeff=self.nu_param,
            eps=self.eps,
            group=group,
        )


class BarlowTwinsLoss(torch.nn.Module):
    """Barlow Twins as ``lightly.loss.BarlowTwinsLoss``.

    Args:
        lambda_param: weight of the off-diagonal term.
        gather_distributed: the cross-correlation of the batches of all ranks.

    Raises:
        ValueError: gather_distributed where torch.distributed is not available.

    Example:
        >>> import torch
        >>> from sslkernels.compat.lightly import BarlowTwinsLoss
        >>> z = torch.tensor([[0.0, 0.0], [2.0, 2.0]])  # two equal columns
        >>> BarlowTwinsLoss(lambda_param=0.5)(z, z)
        tensor(1.0000)
    """

    def __init__(self, lambda_param: float = 5e-3, gather_distributed: bool = False) -> None:
        super().__init__()
        _check_gather(gather_distributed)
        self.lambda_param = lambda_param
        self.gather_distributed = gather_distributed

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of two views (batch_size, dim)."""
        group = every_rank() if self.gather_distributed else None
        return barlow_twins_loss(z_a, z_b, lambda_=self.lambda_param, group=group)


class NTXentLoss(torch.nn.Module):
    """SimCLR's loss as ``lightly.loss.NTXentLoss`` without a memory bank.

    Args:
        temperature: what cosines are divided by; at least 1e-6.
        memory_bank_size: 0 or (0, dim): no memory bank.
        gather_distributed: negatives from the batches of all ranks.

    Raises:
        ValueError: |temperature| below 1e-8; a memory bank size that lightly refuses too;
            gather_distributed where torch.distributed is not available.
        NotImplementedError: a memory bank is asked for, or a temperature that is negative.

    Example:
        >>> import torch
        >>> from sslkernels.compat.lightly import NTXentLoss
        >>> NTXentLoss(temperature=1.0)(torch.eye(2), torch.eye(2))
        tensor(0.5514)
    """

    def __init__(
        self,
        temperature: float = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        _check_memory_bank(memory_bank_size)
        if abs(temperature) < 1e-8:
            raise ValueError(f"Illegal temperature: abs({temperature}) < 1e-8")
        if temperature < 0:
            raise NotImplementedError(
                f"temperature: takes a positive number, got {temperature}: lightly's repulsion of "
                "positives at a negative one is not implemented"
            )
        _check_gather(gather_distributed)
        self.temperature = temperature
        self.gather_distributed = gather_distributed

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """The loss of two views (batch_size, embedding_size)."""
        group = every_rank() if self.gather_distributed else None
        return nt_xent_loss(out0, out1, temperature=self.temperature, group=group)


def _assert_views(z_a: Tensor, z_b: Tensor) -> None:
    if min(z_a.shape[0], z_b.shape[0]) < 2:
        raise AssertionError(
            f"z_a and z_b must have batch size > 1, got {z_a.shape[0]} and {z_b.shape[0]}"
        )
    if z_a.shape != z_b.shape:
        raise AssertionError(
            f"z_a and z_b must have the same shape, got {list(z_a.shape)} and {list(z_b.shape)}"
        )


def _check_gather(gather_distributed: bool) -> None:
    if gather_distributed and not dist.is_available():
        raise ValueError(
            "gather_distributed is True but torch.distributed is not available: pass False or "
            "install a torch with distributed support"
        )


def _check_memory_bank(size: int | Sequence[int]) -> None:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    if any(s < 0 for s in sizes):
        raise ValueError(f"memory_bank_size: takes no negative number, got {size}")
    if sizes != (0,) and len(sizes) != 2:
        raise ValueError(f"memory_bank_size: takes 0 or (0, dim), got {size}")
    if sizes[0] != 0:
        raise NotImplementedError(
            f"memory_bank_size: takes 0 or (0, dim), got {size}: the loss with a memory bank of "
            "negatives (MoCo) is not implemented"
        )
