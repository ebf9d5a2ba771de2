import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from sslkernels import reference
from sslkernels.losses import BarlowTwinsLoss, barlow_twins_loss
from sslkernels.passes.selection import use_backend
from tests.inputs import DTYPES
from tests.losses import common
from tests.losses.common import layouts, make_view

SHAPES = [(2, 1), (2, 9), (5, 40), (40, 5), (97, 97), (130, 310), (310, 130)]


def eager_terms(x, y, lambda_, eps):
    # As batch_norm, which takes the variance from differences to the mean; torch's own CPU kernel
    # would lose a common offset's digits, and with them the comparison.
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt() for z in (x, y))
    c = a.T @ b / len(x)
    on_diagonal = (c.diagonal() - 1).square().sum()
    off_diagonal = (c - torch.diag(c.diagonal())).square().sum()
    return on_diagonal + lambda_ * off_diagonal, on_diagonal, off_diagonal


def check(x, y, lambda_=0.0051, eps=1e-5):
    criterion = BarlowTwinsLoss(lambda_, eps=eps)
    arrays = [z.double().numpy() for z in (x, y)]
    options = {"lambda_": lambda_, "eps": eps}
    d = x.shape[1]
    deviations = [np.sqrt(z.var(0) + eps).min() for z in arrays]
    # The float64 reference loses a common offset's digits itself.
    lost = [np.abs(z).max() / sd for z, sd in zip(arrays, deviations, strict=True)]
    lost = [1 + size if x.dtype == torch.float64 else 1.0 for size in lost]
    common.check(
        (x, y),
        criterion.forward_components,
        lambda a, b: eager_terms(a, b, lambda_, eps),
        reference.barlow_twins_terms(*arrays, **options),
        lambda w: reference.barlow_twins_grad(*arrays, **options, weights=w),
        # off_diagonal is a difference to the sum of squares of the diagonal when N < D.
        term_scales=[max(lost) * scale for scale in (d, d, d * d)],
        # Gradients are projected, and each is a sum over D columns.
        gradient_scales=[
            max(lost) * 4 * math.sqrt(d) / (len(x) * deviation) for deviation in deviations
        ],
    )


@settings(max_examples=80, deadline=None)
@given(
    options=common.view_options(),
    first=layouts,
    second=layouts,
    constant=st.sampled_from([0.0, 0.3]),
    backend=st.sampled_from(common.BACKENDS),
)
def test_equals_reference(options, first, second, constant, backend):
    seed = options.pop("seed")
    options["constant_columns"] = constant
    x = make_view(seed=seed, layout=first, **options)
    y = make_view(seed=seed + 1, layout=second, **options)
    with use_backend(backend):
        check(x, y)


@pytest.mark.parametrize("isa", common.ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: str(t)[6:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_instruction_set(isa, dtype, shape):
    x, y = (make_view(*shape, seed, dtype=dtype, shared=0.5) for seed in (0, 1))
    with use_backend("cpu"), common.limited_to(isa):
        check(x, y, lambda_=0.3)


def test_contraction_in_parts(backend):
    x, y = (make_view(40, 5000, seed, shared=0.5) for seed in (0, 1))
    check(x, y)
    x, y = (make_view(1500, 20, seed, shared=0.5) for seed in (0, 1))
    check(x, y)


def test_equals_batch_norm(backend):
    x, y = (make_view(30, 8, seed, shared=0.5) for seed in (0, 1))
    a, b = (F.batch_norm(z, None, None, training=True) for z in (x, y))
    c = a.T @ b / 30
    torch.testing.assert_close(
        BarlowTwinsLoss().forward_components(x, y).on_diagonal, (c.diagonal() - 1).square().sum()
    )


@pytest.mark.parametrize("shape", [(64, 16), (16, 64)], ids=str)
@pytest.mark.parametrize("offset", [2.0**14, 2.0**20])
def test_a_common_offset_costs_nothing(backend, shape, offset):
    # Multiples of 1/8, so that the offset moves float32 values without rounding.
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randint(-8, 9, shape, generator=g).float() / 8 for _ in range(2))
    moved = [(z + offset).requires_grad_() for z in (x, y)]
    still = [z.clone().requires_grad_() for z in (x, y)]
    a, b = barlow_twins_loss(*moved), barlow_twins_loss(*still)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    grads = zip(torch.autograd.grad(a, moved), torch.autograd.grad(b, still), strict=True)
    for got, want in grads:
        torch.testing.assert_close(got, want, rtol=0, atol=2e-6 * float(want.abs().max()))


@pytest.mark.parametrize("shape", [(6, 4), (4, 30)], ids=str)
def test_constant_columns_are_zero_columns(backend, shape):
    x, y = (make_view(*shape, seed, dtype=torch.float64) for seed in (0, 1))
    x[:, 1] = 7.3
    x.requires_grad_()
    got = barlow_twins_loss(x, y)
    a, b = (F.batch_norm(z, None, None, training=True) for z in (x, y))
    c = a.T @ b / shape[0]
    d = shape[1]
    weights = torch.full((d, d), 0.0051, dtype=torch.float64).fill_diagonal_(1)
    want = ((c - torch.eye(d)).square() * weights).sum()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(want, x))


def test_float16_near_its_limit(backend):
    x = torch.tensor([[6e4, -6e4, 5e4], [-6e4, 6e4, 6e4], [0, 1, 2]], dtype=torch.float16)
    want = reference.barlow_twins_loss(x.double().numpy(), -x.double().numpy())
    assert float(barlow_twins_loss(x, -x)) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(8, 40), (40, 8)], ids=str)
def test_nan_and_infinity_give_nan(backend, shape, bad):
    x, y = make_view(*shape, 0), make_view(*shape, 1)
    x[3, 5] = bad
    x.requires_grad_()
    loss = barlow_twins_loss(x, y)
    assert loss.isnan()
    assert torch.autograd.grad(loss, x)[0][3, 5].isnan()


def test_where_eager_half_precision_overflows(backend):
    # 2^17 rows of equal columns: the product of float16 columns, before it is divided by N.
    n = 2**17
    x = torch.ones(n, 1, dtype=torch.float16)
    x[::2] = -1
    assert not (x.T @ x).isfinite().all()
    assert float(barlow_twins_loss(x, x)) < 1e-9


@pytest.mark.parametrize("shape", [(5, 3), (4, 9)], ids=str)
def test_gradcheck(backend, shape):
    x, y = (
        make_view(*shape, seed, dtype=torch.float64, shared=0.5).requires_grad_() for seed in (0, 1)
    )
    criterion = BarlowTwinsLoss(0.3)
    assert torch.autograd.gradcheck(lambda a, b: tuple(criterion.forward_components(a, b)), (x, y))


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("shape", [(5, 3), (4, 9)], ids=str)
def test_opcheck(shape, needs):
    x, y = (make_view(*shape, seed) for seed in (0, 1))
    kept = torch.ops.sslkernels.barlow_twins(x, y, 0.1, 1e-5)[1:]
    args = (torch.randn(3), x, y, *kept, 0.1, *needs, "sslkernels.backends.cpu")
    opcheck(torch.ops.sslkernels.barlow_twins_backward.default, args)
    opcheck(torch.ops.sslkernels.barlow_twins.default, (x.requires_grad_(needs[0]), y, 0.1, 1e-5))


Z = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.zeros((4, 3)), Z, TypeError, "x: expected a torch tensor, got ndarray"),
        (Z.long(), Z, TypeError, "x: expected float16, .* got int64"),
        (torch.zeros(4, 2, 3), Z, ValueError, r"x: expected shape \[N, D\], got \[4, 2, 3\]"),
        (Z[:1], Z[:1], ValueError, r"x: needs at least 2 rows, got shape \[1, 3\]"),
        (Z, Z.double(), TypeError, "y: expected x's dtype float32, got float64"),
        (Z, torch.zeros(4, 2), ValueError, r"y: expected x's shape \[4, 3\], got \[4, 2\]"),
        (Z, Z.to("meta"), ValueError, "y: expected x's device cpu, got meta"),
    ],
)
def test_bad_views(x, y, error, message):
    for call in (barlow_twins_loss, BarlowTwinsLoss().forward_components):
        with pytest.raises(error, match=message):
            call(x, y)


def test_bad_options():
    with pytest.raises(ValueError, match="lambda_: expected a finite number, got nan"):
        barlow_twins_loss(Z, Z, lambda_=math.nan)
    with pytest.raises(TypeError, match="lambda_param: expected a number, got str"):
        BarlowTwinsLoss("0.5")
    for eps in (0.0, -1.0):
        with pytest.raises(ValueError, match="eps: expected a"):
            BarlowTwinsLoss(eps=eps)
