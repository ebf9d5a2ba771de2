"""NT-Xent's kernels against the float64 reference; tolerances as in loss_cases.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sslkernels as ssk
from sslkernels import reference
from sslkernels.backends.triton.nt_xent import forward as nt_xent
from sslkernels.backends.triton.product import tiles
from tests.triton import loss_cases
from tests.triton.loss_cases import DTYPES, FLOOR, LAYOUTS, array, error, strided, views

GRAD = (1.0, 0.3, -2.0)


def run(x, y, temperature, needs=(True, True)):
    terms, rows = nt_xent.nt_xent_forward(x, y, temperature)
    grad = torch.tensor(GRAD, device=x.device)
    return terms, rows, nt_xent.nt_xent_backward(grad, x, y, rows, temperature, *needs)[:2]


def truth(x, y, temperature):
    terms = reference.nt_xent_terms(array(x), array(y), temperature=temperature)
    grads = reference.nt_xent_grad(array(x), array(y), temperature=temperature, weights=GRAD)
    return list(terms), list(grads)


def formula(x, y, temperature):
    u = F.normalize(torch.cat((x, y)), dim=1)
    logits = (u @ u.T / temperature).fill_diagonal_(-torch.inf)
    n = len(x)
    alignment = -(logits.diagonal(n).sum() + logits.diagonal(-n).sum()) / (2 * n)
    uniformity = logits.logsumexp(1).mean()
    return torch.stack((alignment + uniformity, alignment, uniformity))


def check(x, y, temperature) -> None:
    terms, rows, grads = run(x, y, temperature)
    true_terms, true_grads = truth(x, y, temperature)
    theirs = loss_cases.eager(
        lambda a, b: formula(a, b, temperature), [x, y], torch.tensor(GRAD, device=x.device)
    )
    assert terms.dtype == torch.float32
    assert rows.dtype == torch.float64 and rows.shape == (2, 2 * len(x))
    for grad in grads:
        assert grad.dtype == x.dtype and grad.shape == x.shape and grad.is_contiguous()
    loss_cases.assert_as_good(list(terms), theirs[0], true_terms, x.dtype)
    loss_cases.assert_as_good(list(grads), theirs[1], true_grads, x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, d, temperature", [(2, 1, 0.5), (33, 77, 0.1), (70, 24, 0.5)])
def test_against_reference(n, d, temperature, dtype, device) -> None:
    check(*views(n, d, dtype, device), temperature)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout, device) -> None:
    x = strided(layout, 20, 24, device)
    check(x, x.contiguous() + 0.2 * torch.randn(20, 24).to(device), 0.2)


@pytest.mark.parametrize("temperature", [0.01, 1e-6, 1e4])
def test_any_temperature(temperature, device) -> None:
    x, y = views(24, 30, torch.float32, device)
    terms, _, grads = run(x, y, temperature)
    true_terms, true_grads = truth(x, y, temperature)
    assert terms.isfinite().all() and all(g.isfinite().all() for g in grads)
    # Cosines err by a rounding or two, of which a temperature makes logits.
    for value, true in zip(terms, true_terms, strict=True):
        assert abs(value.item() - true) <= FLOOR[torch.float32] * (abs(true) + 1 / temperature)
    if temperature != 1e-6:
        for ours, true in zip(grads, true_grads, strict=True):
            assert error(ours, true) <= FLOOR[torch.float32] / min(temperature, 1.0)


def test_opposite_views_at_a_low_temperature(device) -> None:
    x = torch.zeros(10, 4, device=device)
    x[:, 0] = 1
    terms, _, _ = run(x, -x, 0.01)
    assert array(terms) == pytest.approx(truth(x, -x, 0.01)[0], rel=1e-6)


def test_a_small_loss_keeps_its_digits(device) -> None:
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).to(device)
    terms, rows = nt_xent.nt_xent_forward(x, x, 0.02)
    grad = torch.tensor([1.0, 0.0, 0.0], device=device)
    grad_x, *_ = nt_xent.nt_xent_backward(grad, x, x, rows, 0.02, True, False)
    want = reference.nt_xent_loss(array(x), array(x), temperature=0.02)
    assert 0 < want < 1e-6  # eager float32 arithmetic has 0 here, or noise
    assert terms[0].item() == pytest.approx(want, rel=1e-4)
    true, _ = reference.nt_xent_grad(array(x), array(x), temperature=0.02)
    np.testing.assert_allclose(array(grad_x), true, atol=1e-4 * np.abs(true).max())


def test_zero_rows_and_rows_far_from_1(device) -> None:
    x, y = views(12, 20, torch.float32, device)
    x[3] = 0
    x[4] *= 1e-25
    y[5] *= 1e25
    terms, _, grads = run(x, y, 0.5)
    true_terms, true_grads = truth(x, y, 0.5)
    assert array(terms) == pytest.approx(true_terms, rel=1e-6)
    for ours, true in zip(grads, true_grads, strict=True):
        for row, exact in zip(ours, true, strict=True):
            assert error(row, exact) <= 8 * FLOOR[torch.float32]


def test_one_pair_has_no_negatives(device) -> None:
    x, y = views(1, 5, torch.float32, device)
    terms, _, grads = run(x, y, 0.5)
    assert terms[0].item() == 0
    for ours, true in zip(grads, truth(x, y, 0.5)[1], strict=True):
        assert error(ours, true) <= 4 * FLOOR[torch.float32]


def test_rows_in_turns_and_one_gradient_only(device, monkeypatch) -> None:
    x, y = views(66, 12, torch.bfloat16, device)
    _, _, (grad_x, grad_y) = run(x, y, 0.5)
    _, _, (only_x, none) = run(x, y, 0.5, (True, False))
    assert none is None and torch.equal(only_x, grad_x)
    _, _, (none, only_y) = run(x, y, 0.5, (False, True))
    assert none is None and torch.equal(only_y, grad_y)
    monkeypatch.setattr(tiles, "rows_at_once", lambda row_bytes: 128)
    _, _, in_turns = run(x, y, 0.5)
    # The contraction may be cut otherwise.
    for ours, whole in zip(in_turns, (grad_x, grad_y), strict=True):
        assert error(ours, array(whole)) <= 2.0**-8


@pytest.mark.parametrize("precision, tolerance", [("highest", 2.0**-20), ("high", 2.0**-10)])
def test_fp32_products_follow_the_torch_setting(precision, tolerance, device) -> None:
    x, y = views(40, 64, torch.float32, device)
    for _ in loss_cases.fp32_products(precision):
        _, _, grads = run(x, y, 0.5)
    errors = [error(g, t) for g, t in zip(grads, truth(x, y, 0.5)[1], strict=True)]
    assert max(errors) <= tolerance
    assert precision == "highest" or max(errors) > 2.0**-20  # the setting does reach the product


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_value_is_not_hidden(value, device) -> None:
    x, y = views(20, 24, torch.float32, device)
    x[3, 5] = value
    terms, _, (grad_x, _) = run(x, y, 0.5)
    assert not terms.isfinite().any()
    assert grad_x.isnan().all()


def test_bitwise_repeatable(device) -> None:
    x, y = views(70, 20, torch.bfloat16, device)
    first, again = run(x, y, 0.1), run(x, y, 0.1)
    for a, b in zip((*first[:2], *first[2]), (*again[:2], *again[2]), strict=True):
        assert torch.equal(a, b)


def test_the_public_function(device) -> None:
    x, y = (z.requires_grad_() for z in views(20, 24, torch.float32, device))
    with ssk.use_backend("triton"):
        loss = ssk.nt_xent_loss(x, y, temperature=0.2)
        loss.backward()
    exact = reference.nt_xent_loss(array(x), array(y), temperature=0.2)
    assert loss.item() == pytest.approx(exact, rel=2.0**-20)
    for z, true in zip(
        (x, y), reference.nt_xent_grad(array(x), array(y), temperature=0.2), strict=True
    ):
        assert error(z.grad, true) <= FLOOR[torch.float32]


def by_ranges(x, y, temperature, parts, unrounded):
    """(terms, rows, gradients, radial) of ranges of samples, put together."""
    own = [(sum(parts[:r]), part) for r, part in enumerate(parts)]
    found = [nt_xent.nt_xent_forward(x, y, temperature, each) for each in own]
    terms = sum(t * part for (t, _), part in zip(found, parts, strict=True)) / len(x)
    rows = torch.cat([r.unflatten(1, (2, -1)) for _, r in found], 2).flatten(1)
    grad = torch.tensor(GRAD, device=x.device)
    found = [
        nt_xent.nt_xent_backward(grad, x, y, rows, temperature, True, True, True, each, unrounded)
        for each in own
    ]
    on_x, on_y, radial = zip(*found, strict=True)
    return terms, rows, (torch.cat(on_x), torch.cat(on_y)), sum(radial)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ranges_of_samples(dtype, device) -> None:
    """One sample, ranges that begin and end anywhere, strided rows: what ranks make of a batch."""
    x, y = torch.stack(views(47, 24, dtype, device), 1).unbind(1)
    terms, rows, grads, radial = by_ranges(x, y, 0.3, [1, 19, 27], True)
    all_terms, all_rows, all_grads = run(x, y, 0.3)
    torch.testing.assert_close(terms, all_terms, rtol=4 * FLOOR[dtype], atol=0)
    torch.testing.assert_close(rows, all_rows, rtol=4 * FLOOR[dtype], atol=4 * FLOOR[dtype])
    true = truth(x, y, 0.3)[1]
    for part, whole, exact in zip(grads, all_grads, true, strict=True):
        assert part.dtype == torch.float32
        assert error(part, exact) <= 4 * FLOOR[dtype]
        assert error(part.to(dtype), array(whole)) <= 4 * FLOOR[dtype]
    # The part along the rows themselves is the gradient by the temperature.
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor(GRAD, dtype=torch.float64)
    (formula(*(z.cpu().double() for z in (x, y)), t) * weights).sum().backward()
    assert (-radial / 0.6).item() == pytest.approx(t.grad.item(), rel=8 * FLOOR[dtype])


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_one_gradient_of_a_range(needs, device) -> None:
    x, y = views(30, 12, torch.float16, device)
    _, rows = nt_xent.nt_xent_forward(x, y, 0.5)
    arguments = torch.tensor(GRAD, device=device), x, y, rows, 0.5
    both = nt_xent.nt_xent_backward(*arguments, True, True, False, (7, 18))
    for radial in (False, True):
        one = nt_xent.nt_xent_backward(*arguments, *needs, radial, (7, 18))
        for got, want, needed in zip(one, both, needs, strict=False):
            assert torch.equal(got, want) if needed else got is None
        assert (one[2] is not None) == radial


def test_float64_names_the_backend_that_serves_it(device) -> None:
    x, y = views(4, 5, torch.float64, device)
    with ssk.use_backend("triton"), pytest.raises(RuntimeError, match="torch backend"):
        ssk.nt_xent_loss(x, y)
