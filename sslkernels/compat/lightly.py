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

from sslkernels.compat._memory_bank import MemoryBank, loss_with_memory_bank
from sslkernels.compat._shared import barlow_twins, divisor, every_rank, vicreg
from sslkernels.compat._simclr import simclr
from sslkernels.distributed.batch import Batch, agree
from sslkernels.losses import _checks
from sslkernels.losses.nt_xent import MIN_TEMPERATURE, nt_xent_terms


class VICRegLoss(torch.nn.Module):
    """VICReg as ``lightly.loss.VICRegLoss``.

    Args:
        lambda_param: weight of the invariance term; a tensor of one number gets its gradient, and
            so for the other weights.
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
        lambda_param: float | Tensor = 25.0,
        mu_param: float | Tensor = 25.0,
        nu_param: float | Tensor = 1.0,
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
        weights = {name: getattr(self, name) for name in ("lambda_param", "mu_param", "nu_param")}
        return vicreg(z_a, z_b, weights, self.eps, group, ("z_a", "z_b"))


class BarlowTwinsLoss(torch.nn.Module):
    """Barlow Twins as ``lightly.loss.BarlowTwinsLoss``.

    Args:
        lambda_param: weight of the off-diagonal term; a tensor of one number gets its gradient.
        gather_distributed: the mean of all ranks' cross-correlations, each of views normalized by
            the rank's own statistics.

    Raises:
        ValueError: gather_distributed where torch.distributed is not available.

    Example:
        >>> import torch
        >>> from sslkernels.compat.lightly import BarlowTwinsLoss
        >>> z = torch.tensor([[0.0, 0.0], [2.0, 2.0]])  # two equal columns
        >>> BarlowTwinsLoss(lambda_param=0.5)(z, z)
        tensor(1.0000)
    """

    def __init__(
        self, lambda_param: float | Tensor = 5e-3, gather_distributed: bool = False
    ) -> None:
        super().__init__()
        _check_gather(gather_distributed)
        self.lambda_param = lambda_param
        self.gather_distributed = gather_distributed

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of two views (batch_size, dim)."""
        group = every_rank() if self.gather_distributed else None
        names = ("z_a", "z_b")
        return barlow_twins(
            z_a, z_b, self.lambda_param, "lambda_param", group, names, for_averaging=True
        )


class NTXentLoss(torch.nn.Module):
    """SimCLR's loss, or MoCo's with a memory bank, as ``lightly.loss.NTXentLoss``.

    With a memory bank the negatives of a row of ``out0`` are the rows of the bank, and its positive
    the row of ``out1``; which then enters the bank in place of the oldest, if ``out0`` requires a
    gradient. No batch x bank matrix is formed: bank, batch and gradients are all the memory.

    Args:
        temperature: what cosines are divided by; a tensor of one number gets its gradient. A
            negative one repels positives.
        memory_bank_size: (rows, dim) of the memory bank; 0 or (0, dim) for none.
        gather_distributed: negatives from the batches of all ranks; with a memory bank, all ranks'
            rows enter it.

    Attributes:
        memory_bank: holds the buffers ``bank`` [rows, dim], unit rows, random at first, and
            ``bank_ptr`` [1], the oldest row; neither is saved in a state_dict.

    Raises:
        ValueError: |temperature| below 1e-8; a memory bank size that lightly refuses too;
            gather_distributed where torch.distributed is not available.

    Example:
        >>> import torch
        >>> from sslkernels.compat.lightly import NTXentLoss
        >>> NTXentLoss(temperature=1.0)(torch.eye(2), torch.eye(2))
        tensor(0.5514)
        >>> moco = NTXentLoss(temperature=1.0, memory_bank_size=(4, 2))
        >>> query = torch.eye(2).requires_grad_()
        >>> for _ in range(3):  # the bank is full of the rows (1, 0) and (0, 1) after two steps
        ...     loss = moco(query, torch.eye(2))
        >>> loss  # log(3 + 2 / e): the positive, two of its equals, and two negatives
        tensor(1.3180, grad_fn=<...>)
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        self.memory_bank = MemoryBank(memory_bank_size)
        if -1e-8 < temperature < 1e-8:
            raise ValueError(f"Illegal temperature: abs({temperature}) < 1e-8")
        _check_gather(gather_distributed)
        self.temperature = temperature
        self.gather_distributed = gather_distributed

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """The loss of two views (batch_size, embedding_size)."""
        group = every_rank() if self.gather_distributed else None
        names = ("out0", "out1")
        t, bank = self.temperature, self.memory_bank
        with_bank = bank.size[0] > 0
        if not with_bank and not isinstance(t, Tensor) and t >= MIN_TEMPERATURE:
            return nt_xent_terms(out0, out1, t, group, names)[0]

        def check() -> None:
            _checks.pair(out0, out1, min_rows=1, names=names)
            _checks.weight(t, "temperature")
            if with_bank:
                bank.check(out0, "out0")

        batch = None
        if group is None:
            check()
        else:
            options = ("a tensor" if isinstance(t, Tensor) else t, bank.size)
            batch = agree(group, "NT-Xent", check, (out0, out1), options, min_rows=1)
        if with_bank:
            batch = Batch.alone(out0) if batch is None else batch
            return loss_with_memory_bank(out0, out1, bank, batch, divisor(t, out0))
        first = 0
        if batch is not None:
            first = sum(batch.rows[: batch.rank])
            batch = batch._replace(rows=tuple(2 * n for n in batch.rows))
        samples = torch.arange(first, first + out0.shape[0], device=out0.device).repeat(2)
        return simclr(torch.cat((out0, out1)), samples, divisor(t, out0), batch)


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
