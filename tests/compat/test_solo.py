"""Against solo-learn's losses, written out from their definitions."""

import pytest
import torch
import torch.nn.functional as F
from torch import distributed as dist

from sslkernels.compat import _simclr
from sslkernels.compat.solo import barlow_loss_func, simclr_loss_func, vicreg_loss_func
from tests.compat.compare import assert_same, each_input, each_shape, squared_variances, views


def solo_vicreg(z1, z2, sim=25.0, var=25.0, cov=1.0):
    """The SUM of both views' hinges, and covariances over N - 1."""
    loss = sim * F.mse_loss(z1, z2)
    for z in (z1, z2):
        c = torch.cov(z.T).reshape(z.shape[1], -1)
        loss = loss + var * F.relu(1 - (c.diagonal() + 1e-4).sqrt()).mean()
        loss = loss + cov * (c - c.diagonal().diag()).square().sum() / len(c)
    return loss


def solo_barlow(z1, z2, lamb=5e-3, scale=0.025):
    """Batch norm without parameters, eps 1e-5; all weights on the squared distance of the
    correlations from the identity."""
    a, b = (F.batch_norm(z, None, None, training=True) for z in (z1, z2))
    c = a.T @ b / len(a)
    if dist.is_initialized():  # with no word to autograd: each rank's gradient is of its own part
        dist.all_reduce(c.detach())
        c = c / dist.get_world_size()
    one = torch.eye(len(c), dtype=c.dtype)
    return scale * ((c - one).square() * (one + lamb * (1 - one))).sum()


def solo_simclr(z, indexes, temperature=0.1):
    """-log of the positives' share of exp(cosine / temperature), by masks."""
    z = F.normalize(z)
    power = torch.exp(z @ z.T / temperature)
    positive = indexes[:, None] == indexes[None]
    negative = ~positive
    positive = positive.fill_diagonal_(False)
    share = (power * positive).sum(1)
    return -(share / (share + (power * negative).sum(1))).log().mean()


@each_shape
@each_input
def test_vicreg(shape, dtype, offset):
    x, y = views(shape, dtype, offset)
    scale = squared_variances(x, y)
    assert_same(vicreg_loss_func, solo_vicreg, x, y, offset=offset, scale=scale)
    weights = (3.0, 7.0, 0.5)
    assert_same(
        lambda x, y: vicreg_loss_func(x, y, *weights),
        lambda x, y: solo_vicreg(x, y, *weights),
        x,
        y,
        offset=offset,
        scale=scale,
    )


@each_shape
@each_input
def test_barlow_twins(shape, dtype, offset):
    x, y = views(shape, dtype, offset)
    scale = float(shape[1])  # the diagonal's ones, which a wide problem subtracts
    assert_same(barlow_loss_func, solo_barlow, x, y, offset=offset, scale=0.025 * scale)
    assert_same(
        lambda x, y: barlow_loss_func(x, y, lamb=0.3, scale_loss=2.0),
        lambda x, y: solo_barlow(x, y, 0.3, 2.0),
        x,
        y,
        offset=offset,
        scale=2 * scale,
    )


def on_both(loss, indexes, temperature):
    return lambda x, y: loss(torch.cat((x, y)), indexes, temperature)


INDEXES = {
    "two views": torch.arange(12).repeat(2),
    "shuffled pairs": torch.randperm(24, generator=torch.Generator().manual_seed(0)) // 2 * 17 - 90,
    "neighbours": torch.arange(24) // 2,
    "three views": torch.arange(8).repeat(3),
    "four views": torch.arange(6).repeat(4),
    "labels": torch.tensor([0, 1, 1, 5, 5, 5, 9, 9, 9, 9, 9, 0] * 2),
    "odd": torch.tensor([0, 1, 1, 5, 5, 5, 9, 9, 9, 9, 9, 0] * 2, dtype=torch.uint8).clamp(max=5),
    "one label": torch.zeros(24, dtype=torch.int32),
}
each_index = pytest.mark.parametrize("indexes", INDEXES.values(), ids=INDEXES.keys())


@each_input
@pytest.mark.parametrize("temperature", [0.1, 0.5])
@each_index
def test_simclr(dtype, offset, temperature, indexes):
    x, y = views((12, 20), dtype, offset)
    ours, theirs = (on_both(f, indexes, temperature) for f in (simclr_loss_func, solo_simclr))
    assert_same(ours, theirs, x, y, scale=1 / temperature)


@each_index
def test_simclr_gradients(indexes):
    """Of rows and of the temperature; and of rows shorter than what norms are raised to."""
    z = torch.cat(views((12, 3), torch.float64))
    temperature = torch.tensor(0.3, dtype=torch.float64)
    z, temperature = z.requires_grad_(), temperature.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, t: simclr_loss_func(z, indexes, t), (z, temperature))
    short = torch.cat((z.detach(), torch.full((2, 3), 1e-14, dtype=torch.float64)))
    indexes = torch.cat((indexes.long(), torch.tensor([77, 77])))
    got, want = (
        torch.func.grad(lambda z, loss=loss: loss(z, indexes, 0.3))(short)
        for loss in (simclr_loss_func, solo_simclr)
    )
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 5, 23, 24])
def test_simclr_by_blocks(rows, monkeypatch):
    """Logits of some rows at a time, the last block shorter."""
    monkeypatch.setattr(_simclr, "_LOGITS", 24 * rows)
    x, y = views((12, 20), torch.float64)
    ours, theirs = (on_both(f, INDEXES["labels"], 0.3) for f in (simclr_loss_func, solo_simclr))
    assert_same(ours, theirs, x, y, scale=1 / 0.3)


@pytest.mark.parametrize("name", ["two views", "four views", "labels"])
@pytest.mark.parametrize("noise", [0.3, 0.1])
def test_simclr_keeps_the_digits_of_small_losses(name, noise):
    """A logit is rounded to eps / temperature, and so much is lost of a loss however small."""
    g = torch.Generator().manual_seed(0)
    indexes, temperature = INDEXES[name], 0.07
    centers = torch.randn(12, 64, generator=g)
    z = centers[indexes] + noise * torch.randn(len(indexes), 64, generator=g)
    got, want = (
        torch.func.grad_and_value(lambda z, f=f: f(z, indexes, temperature))(z.to(dtype))
        for f, dtype in ((simclr_loss_func, torch.float32), (solo_simclr, torch.float64))
    )
    assert want[1] < 1e-3
    allowed = 8 * torch.finfo(torch.float32).eps / temperature
    for mine, exact in zip(got, want, strict=True):
        assert (mine - exact).norm() <= allowed * exact.norm()


def test_simclr_is_differentiable_once():
    z = torch.randn(8, 3, requires_grad=True)
    for indexes in (torch.arange(8) // 2, torch.arange(8) // 4):
        (grad,) = torch.autograd.grad(simclr_loss_func(z, indexes), z, create_graph=True)
        with pytest.raises(NotImplementedError, match="no second derivative"):
            grad.sum().backward()


@pytest.mark.parametrize("need", [(False, False), (True, False), (True, True)])
def test_simclr_operator(need):
    for indexes in (torch.arange(8) // 2, torch.arange(8) // 4):
        arguments = (torch.randn(8, 3), indexes, torch.tensor(0.5, dtype=torch.float64), *need)
        torch.library.opcheck(torch.ops.sslkernels.simclr.default, arguments)


def test_simclr_default_temperature():
    x, y = views((12, 20), torch.float64)
    z, indexes = torch.cat((x, y)), INDEXES["two views"]
    torch.testing.assert_close(simclr_loss_func(z, indexes), solo_simclr(z, indexes))


def test_simclr_of_an_index_without_positives():
    z, indexes = torch.randn(4, 3), torch.tensor([0, 0, 1, 2])
    assert solo_simclr(z, indexes).isinf() and simclr_loss_func(z, indexes).isinf()


def test_simclr_where_the_original_overflows():
    """exp(1 / temperature) passes float32 below a temperature of 0.0113."""
    x, y = views((12, 20))
    z = torch.cat((x, y))
    for indexes in (INDEXES["two views"], INDEXES["four views"]):
        assert not solo_simclr(z, indexes, 0.01).isfinite()
        want = solo_simclr(z.double(), indexes, 0.01)
        torch.testing.assert_close(
            simclr_loss_func(z, indexes, 0.01).double(), want, rtol=1e-5, atol=1e-4
        )


def test_bad_input():
    z = torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"indexes: expected shape \[3\] to match z, got \[2\]"):
        simclr_loss_func(z, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="indexes: expected integers, got float32"):
        simclr_loss_func(z, torch.zeros(3))
    with pytest.raises(ValueError, match=r"temperature: expected .* one number, got shape \[2\]"):
        simclr_loss_func(z, torch.zeros(3, dtype=torch.int64), torch.ones(2))
    with pytest.raises(ValueError, match=r"z1: expected shape \[N, D\], got \[3, 4, 1\]"):
        vicreg_loss_func(z[..., None], z[..., None])
    for loss in (vicreg_loss_func, barlow_loss_func):
        with pytest.raises(ValueError, match=r"z2: expected z1's shape \[3, 4\], got \[2, 4\]"):
            loss(z, z[1:])
    with pytest.raises(TypeError, match=r"z: expected float16, .* got int64"):
        simclr_loss_func(z[:2].long(), torch.zeros(2, dtype=torch.int64))
