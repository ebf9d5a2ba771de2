"""The operator as torch sees it: autograd, tracing, layouts, threads, backends."""

import itertools
from functools import partial

import pytest
import torch
import torch._dynamo.testing
from torch.library import opcheck

from sslkernels.backends import cpu
from sslkernels.losses import (
    VICRegLoss,
    covariance_loss,
    invariance_loss,
    variance_loss,
    vicreg_loss,
)
from sslkernels.numerics.views import wide
from sslkernels.passes.selection import use_backend
from tests.losses.vicreg_cases import make_view

SHAPES = [(5, 3), (3, 5), (7, 2, 7), (4, 2, 2, 9)]
COEFFICIENTS = (25.0, 24.0, 1.5, 0.9, 1e-3)
PAIR = [(True, True, True), (True, False, False)]
ONE = [(False, True, True), (False, True, False), (False, False, True)]


def pair(shape, dtype=torch.float32, **options):
    return tuple(make_view(shape, s, dtype=dtype, **options).requires_grad_() for s in (0, 1))


def step(x, y, **settings):
    loss = vicreg_loss(x, y, **settings)
    return (loss.detach(), *torch.autograd.grad(loss, (x, y)))


def assert_same_bits(got, want):
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(shape, dtype):
    x, y = pair(shape, dtype)
    op = torch.ops.sslkernels.vicreg.default
    for flags in PAIR:
        opcheck(op, (x, y, *COEFFICIENTS, *flags))
        opcheck(op, (x, y.detach(), *COEFFICIENTS, *flags))
    for flags in ONE:
        opcheck(op, (x, None, *COEFFICIENTS, *flags))


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_opcheck_of_the_backward(shape, needs):
    x, y = (z.detach() for z in pair(shape))
    settings = (*COEFFICIENTS, True, True, True)
    _, *saved = torch.ops.sslkernels.vicreg(x, y, *settings)
    args = (torch.randn(4), x, y, *saved, *settings, *needs, "sslkernels.backends.cpu")
    opcheck(torch.ops.sslkernels.vicreg_backward.default, args)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradcheck(backend, shape):
    criterion = VICRegLoss(gamma=1.3)
    views = pair(shape, torch.float64)
    assert torch.autograd.gradcheck(lambda x, y: tuple(criterion.forward_components(x, y)), views)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (3, 2, 4)], ids=str)
def test_second_derivatives(backend, shape):
    criterion = VICRegLoss(gamma=1.3)
    x, y = pair(shape, torch.float64, spread=0.5)
    check = partial(torch.autograd.gradgradcheck, check_fwd_over_rev=True, fast_mode=True)
    assert check(lambda x, y: tuple(criterion.forward_components(x, y)), (x, y))
    assert check(lambda x: vicreg_loss(x, y.detach()), (x,))
    assert check(variance_loss, (x,)) and check(covariance_loss, (x,))
    assert check(invariance_loss, (x, y))


def test_second_derivatives_of_torch_func():
    x, y = (z.detach() for z in pair((6, 5), torch.float64))
    want = torch.autograd.functional.hessian(lambda z: vicreg_loss(z, y), x)
    forward = torch.func.hessian(lambda z: vicreg_loss(z, y))(x)
    backward = torch.func.jacrev(torch.func.jacrev(lambda z: vicreg_loss(z, y)))(x)
    torch.testing.assert_close(forward, want)
    torch.testing.assert_close(backward, want)


def test_second_derivatives_in_low_precision():
    # Of 1,000 times the views' spread in offset, and inside autocast.
    for dtype, offset, tolerance in ((torch.float32, 1e3, 1e-5), (torch.bfloat16, 0.0, 2**-7)):
        x, y = pair((12, 20), dtype, offset=offset)
        results = []
        for views in ((x, y), tuple(z.detach().double().requires_grad_() for z in (x, y))):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                (grad, _) = torch.autograd.grad(vicreg_loss(*views), views, create_graph=True)
                results.append(torch.autograd.grad(grad.square().sum(), views[0])[0])
        got, want = results
        assert got.dtype == dtype
        assert float((got.double() - want).norm() / want.norm()) < tolerance


def test_compiled_whole_without_recompiling():
    compiles = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(vicreg_loss, fullgraph=True, dynamic=True, backend=compiles)
    counts = []
    for n in (33, 40, 57):  # ragged batches, all wide
        x, y = pair((n, 90))
        loss = compiled(x, y)
        assert_same_bits((loss.detach(), *torch.autograd.grad(loss, (x, y))), step(x, y))
        counts.append(compiles.frame_count)
    assert len(set(counts)) == 1


def test_compiled_components():
    x, y = pair((9, 20))
    criterion = VICRegLoss()
    compiled = torch.compile(criterion.forward_components, fullgraph=True, backend="aot_eager")
    got, want = compiled(x, y), criterion.forward_components(x, y)
    assert_same_bits(got, want)
    assert_same_bits(
        torch.autograd.grad(got.variance + 2 * got.covariance, (x, y)),
        torch.autograd.grad(want.variance + 2 * want.covariance, (x, y)),
    )


def test_one_tensor_as_both_views(backend):
    x, _ = pair((12, 20), torch.float64)
    loss = vicreg_loss(x, x)
    other = x.detach().clone().requires_grad_()
    want, gx, gy = step(x, other)
    torch.testing.assert_close(loss.detach(), want)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], gx + gy)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)], ids=str)
def test_only_one_view_needs_a_gradient(backend, shape):
    x, y = pair(shape)
    _, gx, gy = step(x, y)
    assert torch.equal(torch.autograd.grad(vicreg_loss(x, y.detach()), x)[0], gx)
    assert torch.equal(torch.autograd.grad(vicreg_loss(x.detach(), y), y)[0], gy)


def test_leaves_reached_through_views(backend):
    base = make_view((20, 24), 0, dtype=torch.float64).requires_grad_()
    (got,) = torch.autograd.grad(vicreg_loss(base[:, ::2], base[:, 1::2]), base)
    x, y = (base[:, k::2].detach().clone().requires_grad_() for k in (0, 1))
    _, gx, gy = step(x, y)
    torch.testing.assert_close(got, torch.stack((gx, gy), 2).flatten(1))
    row = make_view((1, 24), 0, dtype=torch.float64).requires_grad_()
    (got,) = torch.autograd.grad(vicreg_loss(row.expand(9, 24), base[:9].detach()), row)
    x = row.detach().expand(9, 24).clone().requires_grad_()
    (want,) = torch.autograd.grad(vicreg_loss(x, base[:9].detach()), x)
    torch.testing.assert_close(got, want.sum(0, keepdim=True))


def test_upstream_gradient_of_any_stride(backend):
    x, y = pair((9, 20))
    terms = torch.ops.sslkernels.vicreg(x, y, *COEFFICIENTS, True, True, True)[0]
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0]).repeat_interleave(2)[::2]
    got = torch.autograd.grad(terms, (x, y), weights, retain_graph=True)
    want = torch.autograd.grad((terms * weights).sum(), (x, y), retain_graph=True)
    assert_same_bits(got, want)
    got = torch.autograd.grad(terms, (x, y), torch.tensor(2.0).expand(4), retain_graph=True)
    assert_same_bits(got, torch.autograd.grad(terms, (x, y), torch.full((4,), 2.0)))


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (8, 3, 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_backend_continues_any_other(shape, dtype):
    x, y = (z.detach() for z in pair(shape, dtype))
    settings = (*COEFFICIENTS, True, True, True)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {}
    results = {}
    for forward in ("cpu", "torch"):
        with use_backend(forward):
            results[forward] = torch.ops.sslkernels.vicreg(x, y, *settings)
    for a, b in zip(*results.values(), strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    gram = results["cpu"][3]
    assert torch.equal(gram, gram.mT)
    assert wide(shape[0], shape[-1]) or not gram.diagonal(dim1=2, dim2=3).any()
    grads = []
    for forward, backward in itertools.product(("cpu", "torch"), repeat=2):
        name = f"sslkernels.backends.{backward}"
        args = (
            torch.ones(4, dtype=dtype),
            x,
            y,
            *results[forward][1:],
            *settings,
            True,
            True,
            name,
        )
        grads.append(torch.ops.sslkernels.vicreg_backward(*args))
    for pair_of in grads[1:]:
        torch.testing.assert_close(pair_of, grads[0], **tolerance)


def test_backward_uses_the_backend_of_the_forward(monkeypatch):
    x, y = pair((12, 20))
    with use_backend("torch"):
        loss = vicreg_loss(x, y)
    monkeypatch.setattr(cpu, "vicreg_backward", lambda *_: pytest.fail("the wrong backend"))
    torch.autograd.grad(loss, (x, y))


def test_uninitialised_outputs_are_filled():
    # Deterministic mode fills what torch.empty returns with NaN.
    x, y = pair((30, 3, 50))
    want = step(x, y)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same_bits(step(x, y), want)
    finally:
        torch.use_deterministic_algorithms(False)
