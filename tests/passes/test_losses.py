"""Calls of losses past torch's dispatcher: when they may go there, and that nothing changes."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from sslkernels.passes.barlow_twins import barlow_twins
from tests.losses.common import make_view
from tests.passes.test_statistics import Seen

OPTIONS = (0.1, 1e-5)


@pytest.fixture
def views():
    return tuple(make_view(9, 6, seed).requires_grad_() for seed in range(2))


@pytest.fixture
def dispatched(monkeypatch):
    """How many calls were."""
    calls, op = [], barlow_twins.op
    monkeypatch.setattr(barlow_twins, "op", lambda *args: calls.append(args) or op(*args))
    return calls


def test_same_bits_either_way(views, dispatched):
    results = []
    for op in (barlow_twins, torch.ops.sslkernels.barlow_twins):
        terms = op(*views, *OPTIONS)[0]
        results.append((terms, *torch.autograd.grad(terms @ torch.arange(3.0), views)))
        assert bool(dispatched) == (op is not barlow_twins)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", [torch.nn.Parameter, lambda x: x.detach()])
def test_ordinary_calls_are_not_dispatched(views, dispatched, kind):
    with torch.autocast("cpu"):
        barlow_twins(*map(kind, views), *OPTIONS)
    with torch.no_grad():
        barlow_twins(*views, *OPTIONS)
    assert not dispatched


class Wrapped(torch.Tensor):
    pass


class Passing(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def within(kind):
    def call(x, y):
        with kind():
            barlow_twins(x, y, *OPTIONS)

    return call


def dual(x, y):
    with forward_ad.dual_level():
        barlow_twins(forward_ad.make_dual(x, y), y, *OPTIONS)


WAYS = {
    "dispatch mode": within(Seen),
    "function mode": within(Passing),
    "dual numbers": dual,
    "transform": lambda x, y: torch.func.vjp(lambda z: barlow_twins(z, y, *OPTIONS)[0], x),
    "trace": lambda x, y: torch.jit.trace(lambda *z: barlow_twins(*z, *OPTIONS)[0], (x, y)),
    "subclass": lambda x, y: barlow_twins(x.as_subclass(Wrapped), y, *OPTIONS),
    "negated lazily": lambda x, y: barlow_twins(torch._neg_view(x), y, *OPTIONS),
    "no values": lambda x, y: barlow_twins(x.to("meta"), y.to("meta"), *OPTIONS),
}


@pytest.mark.parametrize("call", WAYS.values(), ids=WAYS)
def test_all_other_calls_are(views, dispatched, call):
    call(*(z.detach() for z in views))
    assert dispatched
