"""Barlow Twins' kernels against the float64 reference; tolerances as in loss_cases.py."""

from __future__ import annotations

import pytest
import torch

import sslkernels as ssk
from sslkernels import reference
from sslkernels.backends.triton.barlow_twins import forward as barlow_twins
from sslkernels.numerics.views import wide
from tests.triton import loss_cases
from tests.triton.loss_cases import DTYPES, FLOOR, LAYOUTS, array, error, strided, views

LAMBDA, EPS = 0.0051, 1e-5
GRAD = (1.0, 0.3, -0.02)


def run(x, y, needs=(True, True)):
    forward = barlow_twins.barlow_twins_forward(x, y, LAMBDA, EPS)
    grad = torch.tensor(GRAD, device=x.device)
    grads = barlow_twins.barlow_twins_backward(grad, x, y, *forward[1:], LAMBDA, *needs)
    return forward, grads


def truth(x, y):
    terms = reference.barlow_twins_terms(array(x), array(y), lambda_=LAMBDA, eps=EPS)
    grads = reference.barlow_twins_grad(array(x), array(y), lambda_=LAMBDA, eps=EPS, weights=GRAD)
    return list(terms), list(grads)


def formula(x, y):
    a, b = ((z - z.mean(0)) / (z.var(0, unbiased=False) + EPS).sqrt() for z in (x, y))
    c = a.T @ b / len(x)
    on_diagonal = (c.diagonal() - 1).square().sum()
    off_diagonal = (c - c.diagonal().diag()).square().sum()
    return torch.stack((on_diagonal + LAMBDA * off_diagonal, on_diagonal, off_diagonal))


def check(x, y) -> None:
    (terms, columns, gram), grads = run(x, y)
    true_terms, true_grads = truth(x, y)
    theirs = loss_cases.eager(formula, [x, y], torch.tensor(GRAD, device=x.device))
    n, d = x.shape
    assert terms.dtype == gram.dtype == torch.float32
    assert columns.dtype == torch.float64 and columns.shape == (5, d)
    assert gram.shape == ((2, n, n) if wide(n, d) else (1, d, d))
    for grad in grads:
        assert grad.dtype == x.dtype and grad.shape == x.shape and grad.is_contiguous()
    loss_cases.assert_as_good(list(terms), theirs[0], true_terms, x.dtype, times=4)
    loss_cases.assert_as_good(list(grads), theirs[1], true_grads, x.dtype, times=4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, d", [(3, 8), (33, 77), (77, 33), (56, 64), (57, 64)])
def test_against_reference(n, d, dtype, device) -> None:
    check(*views(n, d, dtype, device))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n, d", [(20, 40), (40, 24)])
def test_strides(layout, n, d, device) -> None:
    x = strided(layout, n, d, device)
    check(x, x.contiguous() + 0.5 * torch.randn(n, d).to(device))


@pytest.mark.parametrize("n, d", [(40, 72), (72, 40)])
def test_common_offset_costs_no_digits(n, d, device) -> None:
    x, y = (z + 1e4 for z in views(n, d, torch.float32, device))
    (terms, *_), grads = run(x, y)
    true_terms, true_grads = truth(x, y)
    for ours, true in zip((*terms, *grads), (*true_terms, *true_grads), strict=True):
        assert error(ours, true) <= 4 * FLOOR[torch.float32]


def test_split_contractions(device) -> None:
    check(*views(300, 24, torch.float32, device))


def test_a_constant_column(device) -> None:
    x, y = views(20, 40, torch.float32, device)
    x[:, 7] = 3.0
    check(x, y)


def test_one_gradient_only(device) -> None:
    for n, d in ((20, 40), (40, 20)):
        x, y = views(n, d, torch.float32, device)
        _, (grad_x, grad_y) = run(x, y)
        _, (only_x, none) = run(x, y, (True, False))
        assert none is None and torch.equal(only_x, grad_x)
        _, (none, only_y) = run(x, y, (False, True))
        assert none is None and torch.equal(only_y, grad_y)


@pytest.mark.parametrize("precision, tolerance", [("highest", 2.0**-18), ("high", 2.0**-8)])
@pytest.mark.parametrize("n, d", [(40, 160), (160, 40)])
def test_fp32_products_follow_the_torch_setting(n, d, precision, tolerance, device) -> None:
    x, y = views(n, d, torch.float32, device)
    for _ in loss_cases.fp32_products(precision):
        _, grads = run(x, y)
    errors = [error(g, t) for g, t in zip(grads, truth(x, y)[1], strict=True)]
    assert max(errors) <= tolerance
    assert precision == "highest" or max(errors) > 2.0**-18  # the setting does reach the product


@pytest.mark.parametrize("n, d", [(20, 40), (40, 20)])
def test_a_bad_value_is_not_hidden(n, d, device) -> None:
    x, y = views(n, d, torch.bfloat16, device)
    x[3, 5] = float("nan")
    (terms, *_), (grad_x, _) = run(x, y)
    assert not terms.isfinite().any()
    assert grad_x[:, 5].isnan().all()


def test_bitwise_repeatable(device) -> None:
    for n, d in ((50, 100), (100, 50)):
        x, y = views(n, d, torch.bfloat16, device)
        first, again = run(x, y), run(x, y)
        for a, b in zip((*first[0], *first[1]), (*again[0], *again[1]), strict=True):
            assert torch.equal(a, b)


def test_the_public_function(device) -> None:
    x, y = (z.requires_grad_() for z in views(20, 40, torch.float32, device))
    with ssk.use_backend("triton"):
        loss = ssk.barlow_twins_loss(x, y)
        loss.backward()
    exact = reference.barlow_twins_loss(array(x), array(y))
    assert loss.item() == pytest.approx(exact, rel=2.0**-20)
    for z, true in zip((x, y), reference.barlow_twins_grad(array(x), array(y)), strict=True):
        assert error(z.grad, true) <= 4 * FLOOR[torch.float32]


def test_float64_names_the_backend_that_serves_it(device) -> None:
    x, y = views(4, 5, torch.float64, device)
    with ssk.use_backend("triton"), pytest.raises(RuntimeError, match="torch backend"):
        ssk.barlow_twins_loss(x, y)
