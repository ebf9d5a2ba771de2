"""What every rank of ``test_distributed.py`` runs: drop-ins against originals, rank by rank.

The originals that gather are run as they are. For those that are written out for one process, it
takes the whole batch, and a rank's gradient is the number of ranks times its part of the gradient
there: DDP divides by that number.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist

from examples import lightly_losses
from sslkernels.compat import lightly as compat
from sslkernels.compat import official, solo
from tests.compat.test_official import authors_terms
from tests.compat.test_solo import solo_barlow, solo_simclr, solo_vicreg

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ROWS, D = 6, 10


def every_view(d: int = D) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole batch, the same on every rank."""
    g = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(ROWS * dist.get_world_size(), d, generator=g, dtype=torch.float64)
    return x, x + 0.5 * torch.randn(x.shape, generator=g, dtype=torch.float64)


def run(
    loss: Loss, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = (z.clone().requires_grad_() for z in (x, y))
    value = loss(x, y)
    value.backward()
    assert x.grad is not None and y.grad is not None
    return value.detach(), x.grad, y.grad


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def assert_same_gather(ours: Loss, theirs: Loss) -> None:
    """Gradients rank by rank. The value is the batch's on every rank; theirs, on average."""
    mine = slice(dist.get_rank() * ROWS, (dist.get_rank() + 1) * ROWS)
    x, y = (z[mine] for z in every_view())
    value, *grads = run(ours, x, y)
    want, *expected = run(theirs, x, y)
    torch.testing.assert_close(value, mean_over_ranks(want), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-11)


def assert_same_batch(ours: Loss, theirs: Loss) -> None:
    mine = slice(dist.get_rank() * ROWS, (dist.get_rank() + 1) * ROWS)
    views = every_view()
    value, *grads = run(ours, *(z[mine] for z in views))
    want, *whole = run(theirs, *views)
    torch.testing.assert_close(value, want, rtol=1e-10, atol=1e-12)
    expected = [dist.get_world_size() * g[mine] for g in whole]
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-11)


def assert_same_on_ranks(ours: Loss, theirs: Loss) -> None:
    """Value and gradients rank by rank, of equal and unequal shares, narrow and wide."""
    first, world = dist.get_rank() * ROWS, dist.get_world_size()
    for d, fewer in itertools.product((D, 8 * ROWS * world), (0, dist.get_rank())):
        views = [z[first : first + ROWS - fewer] for z in every_view(d)]
        got, want = (run(loss, *views) for loss in (ours, theirs))
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
        # Of half-precision views in float32, where theirs would overflow or lose digits.
        halves = [z.half() for z in views]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, *grads = run(ours, *halves)
        want, *expected = run(theirs, *(z.double() for z in halves))
        torch.testing.assert_close(value, want.float(), rtol=1e-5, atol=1e-5)
        for grad, exact in zip(grads, expected, strict=True):
            largest = float(exact.abs().max())
            torch.testing.assert_close(grad, exact.half(), rtol=2e-3, atol=2e-4 * largest)


def check_memory_bank(theirs: SimpleNamespace) -> None:
    """A rank's loss is of its own rows; all ranks' rows enter every rank's bank."""
    options = {"memory_bank_size": (37, D), "gather_distributed": True}
    losses = []
    for where in (compat, theirs):
        torch.manual_seed(0)  # the banks begin with the same rows
        losses.append(where.NTXentLoss(0.3, **options).double())
    original = losses[1].memory_bank

    def concat_all_gather(rows: torch.Tensor) -> torch.Tensor:
        everyone = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, rows)
        return torch.cat(everyone)

    type(original).forward.__globals__["utils"].concat_all_gather = concat_all_gather
    first = dist.get_rank() * ROWS
    for step in range(6):
        views = [step + z[first : first + ROWS] for z in every_view()]
        got, want = (run(loss, *views) for loss in losses)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(losses[0].memory_bank.bank, original.bank)
        assert losses[0].memory_bank.bank_ptr == original.bank_ptr
    # Where ranks have different shares, lightly would wait forever.
    fewer = [z[: ROWS - dist.get_rank()] for z in views]
    run(losses[0], *fewer)
    banks = [torch.empty_like(original.bank) for _ in range(dist.get_world_size())]
    dist.all_gather(banks, losses[0].memory_bank.bank)
    assert all(torch.equal(bank, banks[0]) for bank in banks)
    with pytest.raises(ValueError, match=r"out0: expected 10 columns|rank 1 refused"):
        losses[0](*(z[:, dist.get_rank() % 2 :] for z in views))


def assert_same_weights(loss: str, theirs: SimpleNamespace, **values: float) -> None:
    """Gradients of weights that are parameters, averaged as by DDP."""
    for options in ({}, {"memory_bank_size": (37, D)})[: 1 + (loss == "NTXentLoss")]:
        averaged = []
        for where in (compat, theirs):
            weights = {
                name: torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))
                for name, value in values.items()
            }
            torch.manual_seed(0)
            module = getattr(where, loss)(**weights, **options, gather_distributed=True).double()
            first = dist.get_rank() * ROWS
            got = run(module, *(z[first : first + ROWS] for z in every_view()))
            averaged.append([mean_over_ranks(got[0]), *got[1:]])
            for weight in module.parameters():
                assert weight.grad is not None
                averaged[-1].append(mean_over_ranks(weight.grad))
        torch.testing.assert_close(*averaged, rtol=1e-9, atol=1e-11)


def check_lightly() -> None:
    theirs = lightly_losses.load()
    assert_same_gather(
        compat.VICRegLoss(gather_distributed=True), theirs.VICRegLoss(gather_distributed=True)
    )
    assert_same_gather(
        compat.NTXentLoss(gather_distributed=True), theirs.NTXentLoss(gather_distributed=True)
    )
    assert_same_on_ranks(
        compat.BarlowTwinsLoss(gather_distributed=True),
        theirs.BarlowTwinsLoss(gather_distributed=True),
    )
    for temperature in (-0.5, -1.0):
        assert_same_gather(
            compat.NTXentLoss(temperature, gather_distributed=True),
            theirs.NTXentLoss(temperature, gather_distributed=True),
        )
    check_memory_bank(theirs)
    assert_same_weights("VICRegLoss", theirs, lambda_param=3.0, mu_param=7.0, nu_param=0.5)
    assert_same_weights("BarlowTwinsLoss", theirs, lambda_param=0.3)
    for temperature in (0.3, -0.3):
        assert_same_weights("NTXentLoss", theirs, temperature=temperature)
    # What is wrong on one rank is an error on all: none waits for another.
    x, y = every_view()
    with pytest.raises(ValueError, match=r"shape|rank 1 refused"):
        compat.VICRegLoss(gather_distributed=True)(x, y[1:] if dist.get_rank() == 1 else y)
    # Without gather_distributed, a rank's loss is its own.
    for name in ("VICRegLoss", "BarlowTwinsLoss", "NTXentLoss"):
        x, y = (z[: ROWS - dist.get_rank()] for z in every_view())
        got, want = (run(getattr(where, name)(), x, y) for where in (compat, theirs))
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def check_formulas() -> None:
    """solo-learn's and the authors' always gather."""
    nominal = ROWS * dist.get_world_size() + 3

    def authors(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        repr_loss, std_loss, cov_loss = authors_terms(x, y, nominal)
        return 25 * repr_loss + 25 * std_loss + cov_loss

    assert_same_batch(official.VICReg(nominal), authors)
    # Unequal shares are one batch of all rows; the authors' code waits forever.
    x, y = every_view()
    shares = [torch.arange(r * ROWS, (r + 1) * ROWS - r) for r in range(dist.get_world_size())]
    mine, everyone = shares[dist.get_rank()], torch.cat(shares)
    value = official.VICReg(nominal)(x[mine], y[mine])
    torch.testing.assert_close(value, authors(x[everyone], y[everyone]), rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="ranks disagree on the loss's options"):
        official.VICReg(nominal + dist.get_rank())(x[mine], y[mine])
    assert_same_batch(solo.vicreg_loss_func, solo_vicreg)
    for loss in (official.VICReg(nominal), solo.vicreg_loss_func, solo.barlow_loss_func):
        with pytest.raises(ValueError, match=r"expected shape \[N, D\]|rank 1 refused"):
            loss(*(z[:, None] if dist.get_rank() == 1 else z for z in (x, y)))
    assert_same_on_ranks(solo.barlow_loss_func, solo_barlow)

    def simclr(views: int, loss: Callable[..., torch.Tensor]) -> Loss:
        def of_all_views(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            """Rows of one sample, ``views`` in all, are on one rank."""
            first = 1000 * dist.get_rank() if len(x) == ROWS else 0
            samples = torch.arange(len(x)) * 2 // views + first
            return loss(torch.cat((x, y)), samples.repeat(2))

        return of_all_views

    for views in (2, 4, 6):
        assert_same_batch(simclr(views, solo.simclr_loss_func), simclr(views, solo_simclr))

    def of_labels(loss: Callable[..., torch.Tensor]) -> Loss:
        def of_all_views(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            """Every label is on every rank."""
            first = ROWS * dist.get_rank() if len(x) == ROWS else 0
            return loss(torch.cat((x, y)), ((first + torch.arange(len(x))) % 5).repeat(2), t)

        return of_all_views

    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert_same_batch(of_labels(solo.simclr_loss_func), of_labels(solo_simclr))
    learned = t.grad
    assert learned is not None
    # Ours and, on every rank, theirs of the whole batch have added up: averaged, twice the same.
    t.grad = None
    run(of_labels(solo_simclr), *every_view())
    assert t.grad is not None
    torch.testing.assert_close(mean_over_ranks(learned), 2 * t.grad)
    with pytest.raises(ValueError, match=r"indexes: expected shape|rank 1 refused"):
        solo.simclr_loss_func(x := every_view()[0], torch.arange(len(x) - dist.get_rank() % 2))


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    {"lightly": check_lightly, "formulas": check_formulas}[sys.argv[1]]()
    dist.barrier()  # Gloo's threads may abort a rank that leaves before the others are done
    dist.destroy_process_group()
