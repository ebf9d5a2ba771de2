import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from sslkernels.backends import cpu
from sslkernels.losses import (
    VICRegLoss,
    covariance_loss,
    invariance_loss,
    variance_loss,
    vicreg_loss,
)
from sslkernels.passes.selection import use_backend
from sslkernels.reference import vicreg as reference
from tests.compare import assert_as_good
from tests.inputs import DTYPES
from tests.isa import DETECTED, LEVELS
from tests.losses.vicreg_cases import check, make_view, views


@pytest.fixture(params=LEVELS)
def isa(request):
    if request.param not in DETECTED:
        pytest.skip(f"this machine stops at {DETECTED[-1]}")
    cpu._C.set_isa_limit(request.param)
    yield request.param
    cpu._C.set_isa_limit(DETECTED[-1])


@settings(max_examples=150, deadline=None)
@given(pair=views())
def test_cpu_equals_reference(pair):
    with use_backend("cpu"):
        check(*pair)


@settings(max_examples=50, deadline=None)
@given(pair=views())
def test_torch_equals_reference(pair):
    with use_backend("torch"):
        check(*pair)


SHAPES = [(2, 1), (2, 300), (33, 17), (97, 97), (150, 100), (100, 600), (200, 230), (40, 1100)]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: str(t)[6:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_instruction_set(isa, shape, dtype):
    x, y = (make_view(shape, seed, dtype=dtype, spread=0.5) for seed in (0, 1))
    with use_backend("cpu"):
        check(x, y)


def test_several_slabs_and_blocks():
    # Both sides of the choice, with more than one slab of the contraction and ragged blocks.
    for shape in ((1030, 2500), (2300, 1030)):
        with use_backend("cpu"):
            check(*(make_view(shape, seed, spread=0.5) for seed in (0, 1)))


# The last slab of each is shorter than the others, and some parts of its blocks have no steps.
LAST_SLAB_SHORT = [(256, 5000), (256, 6144), (512, 5000), (128, 10000), (4097, 256), (10000, 256)]


def terms_and_gradients(views, backend, dtype):
    leaves = [z.to(dtype).requires_grad_() for z in views]
    with use_backend(backend):
        terms = VICRegLoss().forward_components(*leaves)
        return [*terms, *torch.autograd.grad(terms.loss, leaves)]


@pytest.mark.parametrize("shape", LAST_SLAB_SHORT, ids=str)
def test_a_last_slab_with_fewer_steps_than_parts(shape):
    # Against the other backend, which is held to the reference at sizes that this can form.
    views = [make_view(shape, seed, spread=0.5) for seed in (0, 1)]
    got = terms_and_gradients(views, "cpu", torch.float32)
    eager = terms_and_gradients(views, "torch", torch.float32)
    exact = terms_and_gradients(views, "torch", torch.float64)
    for ours, theirs, want in zip(got, eager, exact, strict=True):
        assert_as_good(ours.detach(), theirs.detach(), want.detach(), times=16)


def white(n, d, seed):
    """Centered columns (rows, if they are fewer) exactly orthogonal up to float32 rounding."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(z - z.mean(0), full_matrices=False)
    rank = min(n - 1, d)
    return (math.sqrt(n - 1) * u[:, :rank] @ vt[:rank]).float()


@pytest.mark.parametrize("n", [55, 56, 57, 63, 64, 65, 66, 128])
def test_white_data_near_square(backend, n):
    # sum S_ij^2 and sum v_j^2 nearly cancel here; D is 64, and the sides change at N = 56.
    x, y = white(n, 64, 0), white(n, 64, 1)
    check(x, y)
    for z in (x, y):
        want = reference.covariance_loss(z.double().numpy())
        assert float(covariance_loss(z)) == pytest.approx(want, rel=2e-5, abs=1e-10)


@pytest.mark.parametrize("shape", [(64, 16), (16, 64)], ids=str)
@pytest.mark.parametrize("offset", [2.0**14, 2.0**20])
def test_a_common_offset_costs_nothing(backend, shape, offset):
    # Multiples of 1/8, so that the offset moves float32 values without rounding.
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randint(-8, 9, shape, generator=g).float() / 8 for _ in range(2))
    moved = [(z + offset).requires_grad_() for z in (x, y)]
    still = [z.clone().requires_grad_() for z in (x, y)]
    for a, b in zip(
        VICRegLoss().forward_components(*moved),
        VICRegLoss().forward_components(*still),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    for a, b in zip(
        torch.autograd.grad(vicreg_loss(*moved), moved),
        torch.autograd.grad(vicreg_loss(*still), still),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(b.abs().max()))


def test_float16_near_its_limit(backend):
    # 60000 squared is far beyond float16; so is the difference of the two views.
    x = torch.tensor([[6e4, -6e4, 6e4], [-6e4, 6e4, 6e4]], dtype=torch.float16)
    want = reference.vicreg_terms(x.double().numpy(), -x.double().numpy())
    for got, exact in zip(VICRegLoss().forward_components(x, -x), want, strict=True):
        assert got.dtype == torch.float32
        assert float(got) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_round_once(dtype):
    # Against the float32 gradient: rounding to nearest, subnormals and overflow included.
    x, y = (make_view((40, 333), seed, dtype=dtype) for seed in (0, 1))
    for scale in (1e-6, 1.0, 1e9):
        halves = [z.clone().requires_grad_() for z in (x, y)]
        floats = [z.float().requires_grad_() for z in (x, y)]
        got = torch.autograd.grad(scale * vicreg_loss(*halves), halves)
        want = torch.autograd.grad(scale * vicreg_loss(*floats), floats)
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(8, 40), (40, 8)], ids=str)
def test_nan_and_infinity_give_nan(backend, shape, bad):
    x, y = make_view(shape, 0), make_view(shape, 1)
    x[3, 5] = bad
    x.requires_grad_()
    loss = vicreg_loss(x, y)
    assert loss.isnan()
    assert torch.autograd.grad(loss, x)[0][3, 5].isnan()
    assert variance_loss(x).isnan() and covariance_loss(x).isnan()
    assert not invariance_loss(x, y).isfinite()


def test_terms_alone_equal_terms_together(backend):
    x, y = make_view((20, 3, 30), 0, spread=0.5), make_view((20, 3, 30), 1, spread=0.5)
    terms = VICRegLoss(gamma=0.9, eps=1e-3).forward_components(x, y)
    variance = (variance_loss(x, gamma=0.9, eps=1e-3) + variance_loss(y, gamma=0.9, eps=1e-3)) / 2
    torch.testing.assert_close(invariance_loss(x, y), terms.invariance)
    torch.testing.assert_close(variance, terms.variance)
    torch.testing.assert_close(covariance_loss(x) + covariance_loss(y), terms.covariance)
    total = 25 * terms.invariance + 25 * terms.variance + terms.covariance
    torch.testing.assert_close(terms.loss, total)
    torch.testing.assert_close(VICRegLoss(gamma=0.9, eps=1e-3)(x, y), terms.loss, rtol=0, atol=0)


@pytest.mark.parametrize("term", [variance_loss, covariance_loss], ids=lambda f: f.__name__)
def test_gradient_of_one_term(backend, term):
    z = make_view((20, 2, 30), 0, spread=0.5, dtype=torch.float64).requires_grad_()
    (got,) = torch.autograd.grad(-3 * term(z), z)
    want = getattr(reference, term.__name__.replace("loss", "grad"))(z.detach().numpy())
    np.testing.assert_allclose(got.numpy(), -3 * want, rtol=1e-12, atol=1e-15)


def test_gradient_of_invariance(backend):
    x, y = (make_view((1, 30), s, dtype=torch.float64).requires_grad_() for s in (0, 1))
    gx, gy = torch.autograd.grad(invariance_loss(x, y), (x, y))
    torch.testing.assert_close(gx, (2 * (x - y) / 30).detach())
    torch.testing.assert_close(gy, -gx)


def test_middle_dimensions_are_averaged(backend):
    x, y = make_view((12, 3, 2, 20), 0), make_view((12, 3, 2, 20), 1)
    each = [vicreg_loss(x[:, i, j], y[:, i, j]) for i in range(3) for j in range(2)]
    torch.testing.assert_close(vicreg_loss(x, y), torch.stack(each).mean())


def test_module_repeats_its_settings():
    assert repr(VICRegLoss(gamma=2.0)) == (
        "VICRegLoss(sim_coeff=25.0, std_coeff=25.0, cov_coeff=1.0, gamma=2.0, eps=0.0001)"
    )
