import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from sslkernels import reference
from sslkernels.losses import NTXentLoss, nt_xent_loss
from sslkernels.passes.selection import use_backend
from tests.inputs import DTYPES
from tests.losses import common
from tests.losses.common import layouts, make_view


def eager_terms(x, y, temperature):
    u = F.normalize(torch.cat((x, y)), dim=1)
    logits = (u @ u.T / temperature).fill_diagonal_(-torch.inf)
    alignment = -(u[: len(x)] * u[len(x) :]).sum(1).mean() / temperature
    uniformity = logits.logsumexp(1).mean()
    return alignment + uniformity, alignment, uniformity


def check(x, y, temperature, **options):
    criterion = NTXentLoss(temperature)
    arrays = [z.double().numpy() for z in (x, y)]
    u = F.normalize(torch.cat((x, y)).double(), dim=1)
    share = torch.softmax((u @ u.T / temperature).fill_diagonal_(-torch.inf), 1)
    missing = 1 - (share.diagonal(len(x)).sum() + share.diagonal(-len(x)).sum()) / len(u)
    common.check(
        (x, y),
        criterion.forward_components,
        lambda a, b: eager_terms(a, b, temperature),
        reference.nt_xent_terms(*arrays, temperature=temperature),
        lambda w: reference.nt_xent_grad(*arrays, temperature=temperature, weights=w),
        # Terms are sums of logits of up to 1 / temperature. The loss is log(1 + sum exp(gaps)) of
        # differences of logits, by which its derivatives add up to 1 - P of the positive.
        term_scales=(float(missing) / temperature, 1 / temperature, 1 / temperature),
        # Gradients are projected: what is left may be far smaller than a row's gradient by u.
        gradient_scales=[
            2 / (len(z) * temperature * max(np.linalg.norm(z, axis=1).min(), 1e-12)) for z in arrays
        ],
        **options,
    )


@settings(max_examples=80, deadline=None)
@given(
    options=common.view_options(),
    first=layouts,
    second=layouts,
    temperature=st.sampled_from([0.01, 0.07, 0.5, 3.0]),
    backend=st.sampled_from(common.BACKENDS),
)
def test_equals_reference(options, first, second, temperature, backend):
    seed = options.pop("seed")
    x = make_view(seed=seed, layout=first, **options)
    y = make_view(seed=seed + 1, layout=second, **options)
    with use_backend(backend):
        check(x, y, temperature)


@pytest.mark.parametrize("isa", common.ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: str(t)[6:])
@pytest.mark.parametrize("shape", [(2, 1), (47, 17), (97, 300), (250, 33), (500, 9)], ids=str)
def test_every_instruction_set(isa, dtype, shape):
    x, y = (make_view(*shape, seed, dtype=dtype, shared=0.5) for seed in (0, 1))
    with use_backend("cpu"), common.limited_to(isa):
        check(x, y, 0.1)


def test_more_rows_than_groups_of_blocks(backend):
    # Past 32 blocks of 96 rows a group holds several; 3201 rows leave the last one ragged.
    x, y = (make_view(3201, 8, seed, shared=0.8) for seed in (0, 1))
    with torch.no_grad():
        want = eager_terms(x.double(), y.double(), 0.2)
        for a, b in zip(NTXentLoss(0.2).forward_components(x, y), want, strict=True):
            assert float(a) == pytest.approx(float(b), rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 48, 95, 96, 97])
def test_opposite_rows_at_a_low_temperature(backend, n):
    # Logits of +100 and -100 in one tile; the positive is the worst of each row.
    x = torch.zeros(n, 4)
    x[:, 0] = 1
    y = -x
    terms = NTXentLoss(0.01).forward_components(x, y)
    want = reference.nt_xent_terms(x.numpy(), y.numpy(), temperature=0.01)
    for got, exact in zip(terms, want, strict=True):
        assert float(got) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("temperature", [1e-6, 1e-4, 1e4])
def test_any_temperature_is_finite(backend, temperature):
    x, y = (make_view(60, 20, seed, shared=0.9).requires_grad_() for seed in (0, 1))
    loss = nt_xent_loss(x, y, temperature=temperature)
    want = reference.nt_xent_loss(x.detach().numpy(), y.detach().numpy(), temperature=temperature)
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5, abs=1e-6 / temperature)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (x, y)))


def test_a_small_loss_keeps_its_digits(backend):
    x = make_view(40, 30, 0).requires_grad_()
    loss = nt_xent_loss(x, x.detach(), temperature=0.02)
    array = x.detach().double().numpy()
    want = reference.nt_xent_loss(array, array, temperature=0.02)
    assert 0 < want < 1e-6  # eager float32 arithmetic has 0 here, or noise
    assert float(loss.detach()) == pytest.approx(want, rel=1e-4)
    grad, _ = reference.nt_xent_grad(array, array, temperature=0.02)
    (got,) = torch.autograd.grad(loss, x)
    np.testing.assert_allclose(got.numpy(), grad, atol=1e-4 * np.abs(grad).max())


def test_one_pair_has_no_negatives(backend):
    x, y = (make_view(1, 5, seed).requires_grad_() for seed in (0, 1))
    loss = nt_xent_loss(x, y)
    assert loss == 0
    assert not any(g.any() for g in torch.autograd.grad(loss, (x, y)))


def test_zero_rows_are_as_in_normalize(backend):
    x, y = (make_view(9, 5, seed, dtype=torch.float64, zero_rows=0.3) for seed in (0, 1))
    assert not x.any(1).all() and not y.any(1).all()
    leaves = [z.requires_grad_() for z in (x, y)]
    got = nt_xent_loss(*leaves)
    want = eager_terms(*leaves, 0.5)[0]
    torch.testing.assert_close(got, want)
    for a, b in zip(
        torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_float16_near_its_limit(backend):
    # Squares and sums of squares are far beyond float16, and so is 1e-12 below it.
    x = torch.tensor([[6e4, -6e4, 6e4], [6e4, 6e4, -6e4]], dtype=torch.float16)
    y = torch.tensor([[6e-8, 0, 0], [0, 6e-8, 6e-8]], dtype=torch.float16)
    want = reference.nt_xent_loss(x.double().numpy(), y.double().numpy())
    assert float(nt_xent_loss(x, y)) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_give_nan(backend, bad):
    x, y = make_view(8, 5, 0), make_view(8, 5, 1)
    x[3, 2] = bad
    x.requires_grad_()
    loss = nt_xent_loss(x, y)
    assert loss.isnan()
    assert torch.autograd.grad(loss, x)[0].isnan().any()


def test_where_eager_half_precision_overflows(backend):
    x, y = (300 * make_view(8, 64, seed, dtype=torch.float16, shared=0.5) for seed in (0, 1))
    assert not (x @ x.T).isfinite().all()
    want = reference.nt_xent_loss(x.double().numpy(), y.double().numpy())
    assert float(nt_xent_loss(x, y)) == pytest.approx(want, rel=1e-6)


def test_gradcheck(backend):
    x, y = (
        make_view(7, 4, seed, dtype=torch.float64, shared=0.5).requires_grad_() for seed in (0, 1)
    )
    criterion = NTXentLoss(0.3)
    assert torch.autograd.gradcheck(lambda a, b: tuple(criterion.forward_components(a, b)), (x, y))


@pytest.mark.parametrize("needs", [(True, True, False), (True, False, True), (False, True, True)])
def test_opcheck(needs):
    inputs = (make_view(5, 3, 0), make_view(5, 3, 1), torch.tensor(0.5))
    x, y, temperature = inputs
    rows = torch.ops.sslkernels.nt_xent(*inputs)[1]
    args = (torch.randn(3), x, y, rows, temperature, *needs, "sslkernels.backends.cpu")
    opcheck(torch.ops.sslkernels.nt_xent_backward.default, args)
    for tensor, need in zip(inputs, needs, strict=True):
        tensor.requires_grad_(need)
    opcheck(torch.ops.sslkernels.nt_xent.default, inputs)


Z = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.zeros((4, 3)), Z, TypeError, "x: expected a torch tensor, got ndarray"),
        (Z.long(), Z, TypeError, "x: expected float16, .* got int64"),
        (torch.zeros(4), Z, ValueError, r"x: expected shape \[N, D\], got \[4\]"),
        (torch.zeros(0, 3), Z, ValueError, r"x: needs at least one row, got shape \[0, 3\]"),
        (torch.zeros(4, 0), Z, ValueError, "x: needs at least one column"),
        (Z, Z.double(), TypeError, "y: expected x's dtype float32, got float64"),
        (Z, torch.zeros(5, 3), ValueError, r"y: expected x's shape \[4, 3\], got \[5, 3\]"),
        (Z, Z.to("meta"), ValueError, "y: expected x's device cpu, got meta"),
    ],
)
def test_bad_views(x, y, error, message):
    for call in (nt_xent_loss, NTXentLoss().forward_components):
        with pytest.raises(error, match=message):
            call(x, y)


@pytest.mark.parametrize("temperature", [0, -0.5, 1e-9, math.nan, math.inf])
def test_bad_temperature(temperature):
    message = "temperature: expected a finite number of at least 1e-06, got"
    for call in (lambda t: nt_xent_loss(Z, Z, temperature=t), NTXentLoss):
        with pytest.raises(ValueError, match=message):
            call(temperature)
    with pytest.raises(TypeError, match="temperature: expected a number, got str"):
        NTXentLoss("0.5")
