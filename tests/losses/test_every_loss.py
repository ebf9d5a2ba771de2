"""What every loss promises alike. Half precision, double backward: ``test_mixed_precision.py``."""

import itertools

import pytest
import torch

from sslkernels.losses import barlow_twins_loss, nt_xent_loss, sigreg_loss, vicreg_loss
from sslkernels.passes.selection import use_backend
from tests.losses.common import BACKENDS, make_view


def sigreg_of_both(x, y):
    return sigreg_loss(x, num_slices=300) + sigreg_loss(y, num_slices=300)


LOSSES = {
    "VICReg": vicreg_loss,
    "Barlow Twins": barlow_twins_loss,
    "NT-Xent": nt_xent_loss,
    "SIGReg": sigreg_of_both,
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def leaves(n, d):
    return tuple(make_view(n, d, seed).requires_grad_() for seed in (0, 1))


def step(loss, views):
    value = loss(*views)
    return value.detach(), *torch.autograd.grad(value, views)


def assert_same_bits(got, want):
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@each_loss
def test_autocast_changes_nothing(backend, loss):
    views = leaves(9, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = step(loss, views)
    assert inside[0].dtype == torch.float32
    assert_same_bits(inside, step(loss, views))


# Wide and narrow, and more than one block of rows, columns and sums each.
@each_loss
@pytest.mark.parametrize("shape", [(200, 700), (700, 200), (40, 6000), (400, 50)], ids=str)
def test_threads_and_repetition_change_no_bit(loss, shape):
    views = leaves(*shape)
    want = step(loss, views)
    for threads in (1, 2, 3, 3, 7):
        torch.set_num_threads(threads)
        try:
            assert_same_bits(step(loss, views), want)
        finally:
            torch.set_num_threads(1)


@each_loss
def test_compiled_whole(loss):
    views = leaves(20, 60)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for got, want in zip(step(compiled, views), step(loss, views), strict=True):
        # Weights multiply float32 terms in a graph, and float64 ones in an operator.
        torch.testing.assert_close(got, want, rtol=0, atol=4 * 2**-24 * float(want.abs().max()))


@pytest.mark.parametrize(
    ("name", "settings", "of_backward"),
    [
        ("barlow_twins", (0.1, 1e-5), (0.1, True, True)),
        ("nt_xent", (torch.tensor(0.1),), (torch.tensor(0.1), True, True, True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("shape", [(12, 40), (40, 12)], ids=str)
def test_backends_continue_each_other(name, settings, of_backward, shape):
    forward, backward = (getattr(torch.ops.sslkernels, name + end) for end in ("", "_backward"))
    x, y = (z.detach() for z in leaves(*shape))
    kept, grads = [], []
    for backend in BACKENDS:
        with use_backend(backend):
            kept.append(forward(x, y, *settings))
    for (_, *tensors), backend in itertools.product(kept, BACKENDS):
        name = f"sslkernels.backends.{backend}"
        grads.append(backward(torch.ones(3), x, y, *tensors, *of_backward, name))
    torch.testing.assert_close(kept[0], kept[1], rtol=1e-5, atol=1e-5)
    for pair in grads[1:]:
        torch.testing.assert_close(pair, grads[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("upstream", [1e-310, 5e-324])
@pytest.mark.parametrize("loss", [nt_xent_loss, barlow_twins_loss, vicreg_loss])
def test_a_subnormal_upstream_gradient_is_finite(backend, loss, upstream):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, 5, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    loss(x, y).backward(torch.tensor(upstream, dtype=torch.float64))
    z = torch.randn(9, 5, generator=g, dtype=torch.float64).requires_grad_()
    sigreg_loss(z, num_slices=8).backward(torch.tensor(upstream, dtype=torch.float64))
    for leaf in (x, y, z):
        assert leaf.grad.isfinite().all() and leaf.grad.abs().max() <= 100 * upstream
