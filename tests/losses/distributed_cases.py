"""What the scenarios of ``distributed_worker.py`` share: the losses and their plain formulas, the
authors' gather, views split over ranks, and the comparison with one process."""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss, normalize
from torch.utils._python_dispatch import TorchDispatchMode

from sslkernels.losses import (
    BarlowTwinsLoss,
    NTXentLoss,
    VICRegLoss,
    barlow_twins_loss,
    nt_xent_loss,
    sigreg_loss,
    vicreg_loss,
)

# --- the losses, by whole batch ------------------------------------------------------------------


def sigreg(x, y, group=None):
    return sum(sigreg_loss(z, num_slices=16, step=3, group=group) for z in (x, y)) / 2


def terms(module, x, y, group=None):
    """A weighted sum of all terms, so that every gradient is asked for by itself."""
    parts = module(group=group).forward_components(x, y)
    return sum((k + 1) * part for k, part in enumerate(parts))


LOSSES = {
    "vicreg": vicreg_loss,
    "barlow_twins": barlow_twins_loss,
    "nt_xent": partial(nt_xent_loss, temperature=0.2),
    "sigreg": sigreg,
    "vicreg terms": partial(terms, VICRegLoss),
    "barlow_twins terms": partial(terms, BarlowTwinsLoss),
    "nt_xent terms": partial(terms, NTXentLoss),
}


def plain_vicreg(x, y):
    n, d = x.shape
    total = 25 * mse_loss(x, y)
    for z in (x - x.mean(0), y - y.mean(0)):
        total = total + 25 * torch.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2
        covariance = z.T @ z / (n - 1)
        total = total + (covariance.square().sum() - covariance.diagonal().square().sum()) / d
    return total


def plain_barlow_twins(x, y):
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (x, y))
    c = a.T @ b / len(x)
    on_diagonal = (c.diagonal() - 1).square().sum()
    return on_diagonal + 0.0051 * (c.square().sum() - c.diagonal().square().sum())


def plain_nt_xent(x, y):
    u = normalize(torch.cat((x, y)))
    logits = (u @ u.T / 0.2).fill_diagonal_(-torch.inf)
    target = torch.arange(len(u)).roll(len(x))
    return nn.functional.cross_entropy(logits, target)


PLAIN = {
    "vicreg": plain_vicreg,
    "barlow_twins": plain_barlow_twins,
    "nt_xent": plain_nt_xent,
    "sigreg": sigreg,
}


class Gather(torch.autograd.Function):
    """All ranks' rows, and in the backward pass the sum over ranks of what they ask of ours."""

    @staticmethod
    def forward(ctx, own):
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[dist.get_rank()]


def gathered(z):
    return Gather.apply(z).flatten(0, 1)


class Noted(TorchDispatchMode):
    """The calls, among these names, of operations of torch; inside a kernel it sees none."""

    PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "linear")

    def __init__(self, *names):
        super().__init__()
        self.names = names
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        if name.rstrip("_") in self.names:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


# --- data ----------------------------------------------------------------------------------------


def split(rows):
    """This rank's slice of a batch of rows[r] rows on rank r."""
    start = sum(rows[: dist.get_rank()])
    return slice(start, start + rows[dist.get_rank()])


def views(rows, *shape, dtype=torch.float64, offset=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (sum(rows), *shape)
    x = torch.randn(size, dtype=torch.float64, generator=generator)
    y = x + 0.5 * torch.randn(size, dtype=torch.float64, generator=generator)
    return (0.6 * x + offset).to(dtype), (0.6 * y + offset).to(dtype)


def with_grad(loss, x, y):
    x, y = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
    value = loss(x, y)
    value.backward()
    return value.detach(), x.grad, y.grad


def equal():
    return [3] * dist.get_world_size()


def unequal():
    return [1, 4, 2, 3][: dist.get_world_size()]


def hold(loss, x, y, rows, tolerance=1e-11):
    """Value and input gradients against one process with the whole batch, in float64."""
    own = split(rows)
    found = with_grad(partial(loss, group="world"), x[own], y[own])
    wanted = with_grad(loss, x.double(), y.double())
    world = dist.get_world_size()
    for name, got, want in zip(
        ("value", "x.grad", "y.grad"),
        found,
        (wanted[0], world * wanted[1][own], world * wanted[2][own]),
        strict=True,
    ):
        size = wanted[("value", "x.grad", "y.grad").index(name)].abs().max()
        size = size * (1 if name == "value" else world)
        error = (got.double() - want).abs().max() / size
        assert error <= tolerance, (name, float(error))


# --- models and errors ----------------------------------------------------------------------------


def small_model(d):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, d)).double()


def step(model, loss, a, b):
    """Parameter gradients of one step; the views go through the model together."""
    loss(*model(torch.cat((a, b))).chunk(2)).backward()


def close_gradients(found, wanted, name):
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            got, want.grad, rtol=1e-9, atol=1e-11, msg=lambda m: f"{name}: {m}"
        )


def raises(kind, words, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"no {kind} that says {words!r}")


SCENARIOS: dict[str, dict] = {"agreeing": {}, "failing": {}}


def scenario(which):
    def add(function):
        SCENARIOS[which][function.__name__] = function
        return function

    return add
