"""Scenarios of ``distributed_worker.py``: NT-Xent over ranks runs in the kernels, at any sizes."""

from __future__ import annotations

import random
from functools import partial

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from sslkernels import use_backend
from sslkernels.losses import NTXentLoss, nt_xent_loss
from tests.losses.common import make_view
from tests.losses.distributed_cases import equal, hold, scenario, split, unequal, views, with_grad

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "matmul", "einsum", "linear", "dot", "mv"}


class Products(TorchDispatchMode):
    """Counts the dense products that run under it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__.rstrip("_") in PRODUCTS
        return func(*args, **(kwargs or {}))


@scenario("agreeing")
def nt_xent_multiplies_in_kernels():
    x, y = (z[split(unequal())].clone().requires_grad_() for z in views(unequal(), 24))
    temperature = torch.tensor(0.3, requires_grad=True)
    for backend in ("torch", "cpu"):
        for given in (0.3, temperature):
            with use_backend(backend), Products() as forward:
                terms = NTXentLoss(given, group="world").forward_components(x, y)
            with Products() as backward:
                (terms.loss - 2 * terms.uniformity).backward()
            assert (forward.count > 0) == (backend == "torch")  # so that it does see products
            assert backward.count == 0


@scenario("agreeing")
def nt_xent_of_half_precision_waits_for_its_scale():
    # Gradients of rows so long vanish in float16 until they meet a GradScaler's factor.
    x, y = (3e3 * z for z in views(unequal(), 24))
    for dtype, tolerance in ((torch.float16, 2**-10), (torch.bfloat16, 2**-8)):
        given = x.to(dtype), y.to(dtype)

        def scaled(x, y, group=None):
            return 65536 * nt_xent_loss(x, y, temperature=0.2, group=group)

        hold(scaled, *given, unequal(), tolerance)


@scenario("agreeing")
def nt_xent_at_drawn_sizes():
    world = dist.get_world_size()
    for seed in range(16):
        draw = random.Random(seed)
        rows = [draw.choice((1, 2, draw.randint(3, 120))) for _ in range(world)]
        d = draw.choice((1, 3, draw.randint(2, 150)))
        dtype = draw.choice((torch.float64, torch.float32))
        temperature = draw.choice((0.01, 0.1, 1.0, 1e4))
        weights = [draw.choice((0.0, 1.0, -0.7)) for _ in range(3)]
        layout = draw.choice(("contiguous", "columns of a buffer"))
        own, n = split(rows), sum(rows)
        x, y = (make_view(n, 2 * d, s, dtype=dtype, shared=0.5) for s in (seed, seed + 100))
        x, y = (z[:, ::2] if layout != "contiguous" else z[:, :d].contiguous() for z in (x, y))
        x[draw.randrange(n)] = 0
        y[draw.randrange(n)] *= 1e15

        def loss(x, y, group=None, temperature=temperature, weights=weights):
            terms = NTXentLoss(temperature, group=group).forward_components(x, y)
            return sum(w * term for w, term in zip(weights, terms, strict=True))

        found = with_grad(partial(loss, group="world"), x[own], y[own])
        again = with_grad(partial(loss, group="world"), x[own], y[own])
        wanted = with_grad(loss, x.double(), y.double())
        steep = 1 + 1 / temperature  # what a rounding of a cosine is multiplied by
        allowed = 32 * torch.finfo(dtype).eps * steep
        size = 1 / temperature + torch.tensor(n).log()
        facts = (seed, rows, d, dtype, temperature, weights, layout)
        assert (found[0] - wanted[0]).abs() <= allowed * size, facts
        for got, want, twice, z in zip(found[1:], wanted[1:], again[1:], (x, y), strict=True):
            norm = z.double().norm(dim=1, keepdim=True).clamp_min(1e-12)
            size = want.abs().amax(1, keepdim=True) + 1 / (n * temperature * norm)
            error = got.double() / world - want[own]
            assert (error.abs() <= allowed * size[own]).all(), (facts, error.abs().max())
            assert torch.equal(got, twice), facts


@scenario("agreeing")
def nt_xent_is_the_same_on_any_threads():
    rows = [40 + 17 * r for r in range(dist.get_world_size())]
    x, y = (z[split(rows)] for z in views(rows, 130, dtype=torch.float32))
    loss = partial(nt_xent_loss, temperature=0.1, group="world")
    alone = with_grad(loss, x, y)
    try:
        torch.set_num_threads(3)
        several = with_grad(loss, x, y)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(alone, several, strict=True))


@scenario("agreeing")
def a_tiny_nt_xent_keeps_its_digits():
    rows = equal()
    x, _ = views(rows, 64)
    y = x + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    loss = partial(nt_xent_loss, temperature=0.02)
    value, on_x, _ = with_grad(loss, x, y)
    assert 0 < value < 1e-6
    own = split(rows)
    found = with_grad(partial(loss, group="world"), x[own].float(), y[own].float())
    world = dist.get_world_size()
    torch.testing.assert_close(found[0].double(), value, rtol=1e-4, atol=0)
    error = (found[1].double() / world - on_x[own]).abs().max()
    assert error <= 1e-4 * on_x.abs().max()
