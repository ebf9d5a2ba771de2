"""Weights and temperatures that are tensors: a gradient for them, or an error."""

import pytest
import torch
import torch.nn.functional as F

from sslkernels.losses import (
    BarlowTwinsLoss,
    NTXentLoss,
    VICRegLoss,
    barlow_twins_loss,
    nt_xent_loss,
    sigreg_loss,
    variance_loss,
    vicreg_loss,
)
from tests.losses.common import make_view


def vicreg_of(sim, std, cov):
    return VICRegLoss(sim_coeff=sim, std_coeff=std, cov_coeff=cov)


LEARNED = {"vicreg": (vicreg_of, 3), "barlow_twins": (BarlowTwinsLoss, 1)}
LEARNED["nt_xent"] = (NTXentLoss, 1)
each = pytest.mark.parametrize(("criterion", "count"), LEARNED.values(), ids=LEARNED)


def views(dtype=torch.float32, n=9, d=5, shared=0.5):
    return [make_view(n, d, s, dtype=dtype, shared=shared, spread=0.7) for s in (0, 1)]


def weights(count, shape=(), dtype=torch.float64):
    return [torch.full(shape, 0.3 + k, dtype=dtype, requires_grad=True) for k in range(count)]


@each
def test_gradcheck(backend, criterion, count):
    x, y = (z.requires_grad_() for z in views(torch.float64))

    def terms(x, *given):
        return tuple(criterion(*given).forward_components(x, y))

    inputs = (x, *weights(count))
    assert torch.autograd.gradcheck(terms, inputs, check_forward_ad=True)
    assert torch.autograd.gradcheck(lambda *given: terms(x.detach(), *given), inputs[1:])


@each
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_the_value_of_the_number(backend, criterion, count, shape, dtype):
    x, y = views()
    given = weights(count, shape, dtype)
    got = criterion(*given).forward_components(x, y)
    want = criterion(*(w.item() for w in given)).forward_components(x, y)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32 and a.shape == ()
        torch.testing.assert_close(a, b, rtol=4 * 2**-24, atol=0)
    for weight, grad in zip(given, torch.autograd.grad(got.loss, given), strict=True):
        assert grad.shape == weight.shape and grad.dtype == weight.dtype


@each
def test_parameters_of_a_module(criterion, count):
    parameters = [torch.nn.Parameter(w.detach()) for w in weights(count)]
    module = criterion(*parameters)
    assert list(module.parameters()) == parameters
    module(*views()).backward()
    assert all(p.grad is not None for p in parameters)


def slopes(x, y, temperature):
    """Derivatives of the three terms by the temperature in float64, and what they are sums of."""
    u = F.normalize(torch.cat((x, y)).double())
    logits = u @ u.T / temperature
    positive = logits.diagonal(len(x)).repeat(2).unsqueeze(1)
    gap = (logits - positive).fill_diagonal_(-torch.inf)
    share = torch.softmax(gap, 1)
    parts = torch.where(share > 0, share * gap, 0.0)
    gap_mean, size, mean = parts.sum(1).mean(), parts.abs().sum(1).mean(), positive.mean()
    exact = torch.stack((-gap_mean, mean, -gap_mean - mean))
    return exact / temperature, torch.stack((size, mean.abs(), size + mean.abs())) / temperature


@pytest.mark.parametrize("temperature", [0.02, 0.3, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradient_of_a_temperature(backend, temperature, dtype):
    # At 0.02 the loss is below 1e-6, and eager float32 arithmetic has noise for its derivative.
    x, y = views(dtype, n=40, d=30, shared=0.9 if temperature > 0.1 else 0.99)
    t = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    terms = NTXentLoss(t).forward_components(x, y)
    assert temperature > 0.1 or terms.loss < 1e-6
    got = torch.stack([torch.autograd.grad(term, t, retain_graph=True)[0] for term in terms])
    exact, size = slopes(x, y, temperature)
    # Cosines are known to some roundings, logits and the logarithms of shares to 1 / t times these.
    assert ((got - exact).abs() <= 8 * 2**-24 * (1 + 1 / temperature) * size).all()


def test_a_pair_alone_has_no_slope(backend):
    t = torch.tensor(0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(nt_xent_loss(*views(n=1), temperature=t), t)
    assert slope == 0


def test_a_temperature_is_differentiable_once():
    x, y = views()
    t = torch.tensor(0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(nt_xent_loss(x, y, temperature=t), t, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        slope.backward()


X, Y = views()
REFUSED = {
    "gamma": lambda w: vicreg_loss(X, Y, gamma=w),
    "eps": lambda w: vicreg_loss(X, Y, eps=w),
    "gamma of one term": lambda w: variance_loss(X, gamma=w),
    "eps of Barlow Twins": lambda w: barlow_twins_loss(X, Y, eps=w),
    "t_max": lambda w: sigreg_loss(X, t_max=w),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tensors_that_would_get_no_gradient(name):
    option = name.split()[0]
    for tensor, kind in ((torch.tensor(1.0), "Tensor"), (torch.nn.Parameter(X[0, 0]), "Parameter")):
        with pytest.raises(
            TypeError, match=f"{option}: expected a number, got {kind}: no gradient"
        ):
            REFUSED[name](tensor)


TAKEN = {
    "sim_coeff": lambda w: vicreg_loss(X, Y, sim_coeff=w),
    "std_coeff": lambda w: vicreg_loss(X, Y, std_coeff=w),
    "cov_coeff": lambda w: vicreg_loss(X, Y, cov_coeff=w),
    "lambda_": lambda w: barlow_twins_loss(X, Y, lambda_=w),
    "temperature": lambda w: nt_xent_loss(X, Y, temperature=w),
}


@pytest.mark.parametrize("name", TAKEN)
def test_bad_weights(name):
    for bad, error, words in (
        (torch.ones(2), ValueError, r"expected a tensor of one number, got shape \[2\]"),
        (torch.tensor(1j), TypeError, "expected a number or a real tensor, got complex64"),
        (torch.tensor(True), TypeError, "expected a number or a real tensor, got bool"),
        ("1", TypeError, "expected a number, got str"),
        (None, TypeError, "expected a number, got NoneType"),
        (float("nan"), ValueError, "expected a finite number"),
    ):
        with pytest.raises(error, match=f"{name}: {words}"):
            TAKEN[name](bad)


@pytest.mark.parametrize("value", [0.0, -0.5, 1e-9, float("nan"), float("inf")])
def test_a_temperature_out_of_range(backend, value):
    with pytest.raises(ValueError, match="temperature: expected a finite number of at least 1e-06"):
        nt_xent_loss(X, Y, temperature=torch.tensor(value))
