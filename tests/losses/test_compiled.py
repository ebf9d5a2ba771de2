"""torch.compile of the losses: one graph, sizes and numbers that change between calls."""

import pytest
import torch
import torch._dynamo.testing

from sslkernels.losses import (
    BarlowTwinsLoss,
    NTXentLoss,
    SIGReg,
    VICRegLoss,
    barlow_twins_loss,
    nt_xent_loss,
    sigreg_loss,
    vicreg_loss,
)
from tests.losses.common import make_view


def step(loss, *leaves):
    value = loss(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


def assert_close(got, want):
    for g, w in zip(got, want, strict=True):
        # Weights multiply float32 terms in a graph, and float64 ones in an operator.
        torch.testing.assert_close(g, w, rtol=0, atol=4 * 2**-24 * float(w.abs().max()))


def views(n=20, d=30):
    return [make_view(n, d, seed).requires_grad_() for seed in (0, 1)]


NUMBERS = {
    "sim_coeff": lambda x, y, value: vicreg_loss(x, y, sim_coeff=value),
    "cov_coeff": lambda x, y, value: vicreg_loss(x, y, std_coeff=value, cov_coeff=2 * value),
    "lambda_": lambda x, y, value: barlow_twins_loss(x, y, lambda_=value),
    "temperature": lambda x, y, value: nt_xent_loss(x, y, temperature=value),
}


@pytest.fixture
def compiles():
    torch._dynamo.reset()
    return torch._dynamo.testing.CompileCounterWithBackend("aot_eager")


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("loss", NUMBERS.values(), ids=NUMBERS)
def test_a_number_that_changes(compiles, loss, dynamic):
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend=compiles)
    x, y = views()
    for value in (0.5, 0.7, 0.02, 1.5, 3.25):
        got = step(lambda x, y, value=value: compiled(x, y, value), x, y)
        assert_close(got, step(lambda x, y, value=value: loss(x, y, value), x, y))
    assert compiles.frame_count <= 2  # with the first value as a constant, then with any


MODULES = {
    "cov_coeff": VICRegLoss(),
    "lambda_param": BarlowTwinsLoss(),
    "temperature": NTXentLoss(),
}


@pytest.mark.parametrize("name", MODULES)
def test_an_attribute_that_changes(compiles, name):
    module = MODULES[name]
    compiled = torch.compile(module, fullgraph=True, backend=compiles)
    for value in (0.5, 0.7, 0.02, 1.5, 3.25):
        setattr(module, name, value)
        assert_close(step(compiled, *views()), step(module, *views()))
    assert compiles.frame_count <= 2


def test_a_temperature_out_of_range(compiles):
    compiled = torch.compile(NUMBERS["temperature"], fullgraph=True, backend=compiles)
    x, y = views()
    for value in (0.5, 0.7):
        compiled(x, y, value)
    for bad in (-0.5, float("inf"), torch.tensor(0.0)):
        with pytest.raises(
            ValueError, match="temperature: expected a finite number of at least 1e-06"
        ):
            compiled(x, y, bad)


LEARNED = {
    "vicreg": lambda x, y, w: vicreg_loss(x, y, std_coeff=w),
    "barlow_twins": lambda x, y, w: barlow_twins_loss(x, y, lambda_=w),
    "nt_xent": lambda x, y, w: nt_xent_loss(x, y, temperature=w),
}


@pytest.mark.parametrize("loss", LEARNED.values(), ids=LEARNED)
def test_a_learned_weight(compiles, loss):
    compiled = torch.compile(loss, fullgraph=True, backend=compiles)
    x, y = views()
    for value in (0.5, 0.02, 3.25):
        w = torch.tensor([value], requires_grad=True)
        assert_close(step(compiled, x, y, w), step(loss, x, y, w))
    assert compiles.frame_count == 1


SLICES = SIGReg(num_slices=8).eval()
SIZES = {
    "vicreg": VICRegLoss(),
    "barlow_twins": BarlowTwinsLoss(),
    "nt_xent": NTXentLoss(),
    "sigreg": lambda x, y: sum(sigreg_loss(z, num_slices=8) for z in (x, y)),
    "sigreg module": lambda x, y: SLICES(x) - SLICES(y),
}


@pytest.mark.parametrize("loss", SIZES.values(), ids=SIZES)
def test_sizes_that_change(compiles, loss):
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=compiles)
    counts = []
    for n in (33, 40, 57):  # ragged batches, all wide
        assert_close(step(compiled, *views(n, 90)), step(loss, *views(n, 90)))
        counts.append(compiles.frame_count)
    assert len(set(counts)) == 1


def test_integers_that_change(compiles):
    def loss(z, step):
        return sigreg_loss(z, num_slices=8, seed=step + 1, step=step)

    compiled = torch.compile(loss, fullgraph=True, backend=compiles)
    z = views()[0]
    for k in (0, 3, 4, 7, 2**40):
        assert_close([compiled(z, k).detach()], [loss(z, k).detach()])
    assert compiles.frame_count <= 3
