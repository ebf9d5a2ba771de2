"""Against lightly's own files, and lightly's expectations for its losses."""

import math

import pytest
import torch
from torch import distributed as dist

from sslkernels.compat.lightly import BarlowTwinsLoss, NTXentLoss, VICRegLoss
from tests.compat.compare import (
    assert_same,
    each_input,
    each_shape,
    squared_variances,
    value_and_gradients,
    views,
)

LOSSES = [VICRegLoss, BarlowTwinsLoss, NTXentLoss]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda c: c.__name__)


@each_shape
@each_input
def test_vicreg(lightly, shape, dtype, offset):
    x, y = views(shape, dtype, offset)
    settings = {"lambda_param": 3.0, "mu_param": 7.0, "nu_param": 0.5, "eps": 1e-2}
    ours, theirs = VICRegLoss(**settings), lightly.VICRegLoss(**settings)
    assert_same(ours, theirs, x, y, offset=offset, scale=squared_variances(x, y))
    assert_same(
        VICRegLoss(), lightly.VICRegLoss(), x, y, offset=offset, scale=squared_variances(x, y)
    )


@pytest.mark.parametrize("shape", [(6, 3, 20), (9, 2, 3, 5), (4, 1, 7), (2, 10, 32)], ids=str)
@each_input
def test_vicreg_middle_dimensions(lightly, shape, dtype, offset):
    x, y = views(shape, dtype, offset)
    assert_same(
        VICRegLoss(), lightly.VICRegLoss(), x, y, offset=offset, scale=squared_variances(x, y)
    )


@each_shape
@each_input
def test_barlow_twins(lightly, shape, dtype, offset):
    x, y = views(shape, dtype, offset)
    scale = float(shape[1])  # the diagonal's ones, which a wide problem subtracts
    assert_same(BarlowTwinsLoss(), lightly.BarlowTwinsLoss(), x, y, offset=offset, scale=scale)
    assert_same(
        BarlowTwinsLoss(0.3), lightly.BarlowTwinsLoss(0.3), x, y, offset=offset, scale=scale
    )


@each_shape
@each_input
@pytest.mark.parametrize("temperature", [0.1, 0.5, 10.0])
def test_nt_xent(lightly, shape, dtype, offset, temperature):
    x, y = views(shape, dtype, offset)
    theirs = lightly.NTXentLoss(temperature)
    assert_same(NTXentLoss(temperature), theirs, x, y, scale=1 / temperature)
    assert_same(NTXentLoss(), lightly.NTXentLoss(), x, y, scale=2.0)


@each_loss
def test_order_of_the_views(loss):
    x, y = views((5, 32))
    assert loss()(x, y).item() == pytest.approx(loss()(y, x).item(), rel=1e-6)


@each_loss
def test_arguments_are_lightlys(lightly, loss):
    """Same names in the same order, same defaults, and attributes by those names."""
    import inspect

    theirs = getattr(lightly, loss.__name__)
    want = inspect.signature(theirs).parameters.values()
    got = inspect.signature(loss).parameters.values()
    assert [(p.name, p.default, p.kind) for p in got] == [(p.name, p.default, p.kind) for p in want]
    assert [*inspect.signature(loss.forward).parameters] == [
        *inspect.signature(theirs.forward).parameters
    ]
    for name in inspect.signature(loss).parameters:
        if name != "memory_bank_size":
            assert getattr(loss(), name) == getattr(theirs(), name)


@each_loss
def test_nothing_to_save(lightly, loss):
    """A checkpoint of a model that holds lightly's loss loads strictly."""
    assert loss().state_dict().keys() == getattr(lightly, loss.__name__)().state_dict().keys()


@each_loss
def test_gather_needs_distributed(lightly, loss, monkeypatch):
    loss(gather_distributed=True)
    monkeypatch.setattr(dist, "is_available", lambda: False)
    for which in (loss, getattr(lightly, loss.__name__)):
        with pytest.raises(ValueError, match="gather_distributed is True but"):
            which(gather_distributed=True)


@each_loss
def test_gather_without_a_process_group(lightly, loss):
    x, y = views((6, 9))
    assert torch.equal(loss(gather_distributed=True)(x, y), loss()(x, y))


@pytest.mark.parametrize("shapes", [((1, 32), (1, 32)), ((2, 32), (2, 16)), ((3, 4), (2, 4))])
def test_vicreg_assertions(lightly, shapes):
    x, y = map(torch.zeros, shapes)
    for loss in (VICRegLoss(), lightly.VICRegLoss()):
        with pytest.raises(AssertionError, match="z_a and z_b must have"):
            loss(x, y)


def test_vicreg_of_vicregl():
    """VICRegL's code halves the covariance of maps [N, P, D], and so is nu_param = 0.5."""
    x, y = views((3, 10, 32), torch.float64)

    def vicregl(x, y):
        invariance = (x - y).square().mean()
        variance = covariance = 0.0
        for z in (x, y):
            variance = variance + (1 - (z.var(0) + 1e-4).sqrt()).relu().mean() / 2
            for position in z.unbind(1):
                c = torch.cov(position.T)
                off_diagonal = c.square().sum() - c.diagonal().square().sum()
                covariance = covariance + off_diagonal / 32 / 2 / 10
        return 25 * invariance + 25 * variance + covariance

    assert_same(VICRegLoss(nu_param=0.5), vicregl, x, y, scale=squared_variances(x, y))


def test_barlow_twins_of_authors_batch_norm():
    x, y = views((32, 500))

    def authors(x, y):
        norm = torch.nn.BatchNorm1d(500, affine=False, dtype=x.dtype)
        c = norm(x).T @ norm(y) / len(x)
        on = (c.diagonal() - 1).square().sum()
        return on + 5e-3 * (c.square().sum() - c.diagonal().square().sum())

    assert_same(BarlowTwinsLoss(), authors, x, y, scale=500.0)


def test_barlow_twins_is_affine_invariant():
    x, _ = views((32, 256))
    assert torch.allclose(BarlowTwinsLoss()(x, x), BarlowTwinsLoss()(x, 2 * x + 4), rtol=1e-4)


def test_barlow_twins_needs_two_rows(lightly):
    for loss in (BarlowTwinsLoss(), lightly.BarlowTwinsLoss()):
        with pytest.raises(ValueError):
            loss(torch.zeros(1, 3), torch.zeros(1, 3))


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("d", [1, 2, 16])
@pytest.mark.parametrize("temperature", [0.1, 1, 10])
@pytest.mark.parametrize("gather", [False, True])
def test_nt_xent_of_the_paper(n, d, temperature, gather):
    """Algorithm 1 of arXiv 2002.05709, with the second view below the first."""
    x, y = views((n, d), torch.float64)
    z = torch.cat((x, y))
    powers = torch.exp(torch.cosine_similarity(z[:, None], z[None], dim=2) / temperature)
    powers.fill_diagonal_(0)
    rows = torch.arange(2 * n)
    want = -(powers[rows, rows.roll(n)] / powers.sum(1)).log().mean()
    loss = NTXentLoss(temperature=temperature, gather_distributed=gather)
    torch.testing.assert_close(loss(x, y), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 8, 16])
@pytest.mark.parametrize("temperature", [0.1, 1, 7])
def test_nt_xent_of_equal_directions(n, temperature):
    x = torch.rand(n, 1) + 0.1
    x = torch.cat((x, 2 * x), 1)
    want = math.log(2 * n - 1)
    assert NTXentLoss(temperature)(x, x.flip(0)).item() == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize("size", [0, (0,), (0, 128), [0, 128]], ids=str)
def test_no_memory_bank(lightly, size):
    x, y = views((4, 6))
    got = NTXentLoss(memory_bank_size=size)(x, y)
    torch.testing.assert_close(got, lightly.NTXentLoss(memory_bank_size=size)(x, y))


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (VICRegLoss, ("z_a", "z_b")),
        (BarlowTwinsLoss, ("z_a", "z_b")),
        (NTXentLoss, ("out0", "out1")),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_errors_name_the_arguments(loss, names):
    x, y = views((4, 6))
    first, second = names
    with pytest.raises(TypeError, match=f"{first}: expected float16, .* got int64"):
        loss()(x.long(), y.long())
    with pytest.raises(TypeError, match=f"{second}: expected {first}'s dtype float32, got float64"):
        loss()(x, y.double())


@each_loss
def test_half_precision_views(loss):
    """float32 out, where lightly would answer, or overflow, in the views' dtype."""
    for dtype in (torch.float16, torch.bfloat16):
        x, y = views((8, 24), dtype)
        value, grad, _ = value_and_gradients(loss(), x, y)
        assert value.dtype == torch.float32 and grad.dtype == dtype
        want, *_ = value_and_gradients(loss(), x.double(), y.double())
        torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=1e-6)
