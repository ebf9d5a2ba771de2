"""Half precision, as views and by autocast: where the published formulas overflow or lose their
digits in eager torch, the losses answer as float64 does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from sslkernels.losses import barlow_twins_loss, nt_xent_loss, sigreg_loss, vicreg_loss
from sslkernels.passes.selection import use_backend
from sslkernels.reference.sigreg import slices

Views = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
HALF, BRAIN = torch.float16, torch.bfloat16


@pytest.fixture(params=["cpu", "torch"], autouse=True)
def backend(request):
    with use_backend(request.param):
        yield


def eager_vicreg(x, y):
    """As in the authors' code."""
    loss = 25 * F.mse_loss(x, y)
    for z in (x, y):
        z = z - z.mean(0)
        loss = loss + 12.5 * torch.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean()
        covariance = z.T @ z / (len(z) - 1)
        off_diagonal = covariance - covariance.diagonal().diag()
        loss = loss + off_diagonal.pow(2).sum() / z.shape[1]
    return loss


def eager_barlow_twins(x, y):
    """As in lightly."""
    a, b = (F.batch_norm(z, None, None, training=True) for z in (x, y))
    c = (a.T @ b).div(len(a))
    on = (c.diagonal() - 1).pow(2).sum()
    return on + 0.0051 * (c - c.diagonal().diag()).pow(2).sum()


def eager_nt_xent(x, y):
    """As in solo-learn: powers of unshifted logits."""
    u = F.normalize(torch.cat((x, y)))
    powers = torch.exp(u @ u.T / 0.05)
    powers = powers - powers.diagonal().diag()
    rows = torch.arange(len(u))
    return -torch.log(powers[rows, rows.roll(len(x))] / powers.sum(1)).mean()


def eager_sigreg(x, y):
    """Every row, slice and knot at once; y only takes part."""
    directions = torch.from_numpy(slices(16, x.shape[1])).to(x.dtype)
    t = torch.linspace(0, 3, 17, dtype=x.dtype)
    target = torch.exp(-t * t / 2)
    weight = torch.full_like(t, 2 * 3 / 16)
    weight[[0, -1]] /= 2
    angle = (x @ directions.T)[..., None] * t
    gap = (angle.cos().mean(0) - target).square() + angle.sin().mean(0).square()
    return len(x) * (gap * weight * target).sum(1).mean() + 0 * y.sum()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g)


def large_covariances() -> Views:
    """Correlated columns of variance 400: N * 400 passes 65504, and so does 400 squared."""
    x = 20 * (noise(512, 1) + 0.5 * noise(512, 24, seed=1))
    return x, x + noise(512, 24, seed=2)


def almost_spread() -> Views:
    """Deviations of 0.995, white columns, equal views: all that is left is 1 - 0.995."""
    q, _ = torch.linalg.qr(noise(256, 8).double() - noise(256, 8).double().mean(0))
    x = (q * 0.995 * 255**0.5).float()
    return x, x


def many_rows() -> Views:
    """A column's sum of squares is N = 70000."""
    x = noise(70000, 3)
    return x, x + 0.1 * noise(70000, 3, seed=1)


def almost_equal_views() -> Views:
    x = noise(128, 6)
    return x, x + 0.05 * noise(128, 6, seed=1)


def contrasts() -> Views:
    """Positives with a cosine of about 1, at a temperature of 0.05: exp(20)."""
    x = noise(48, 16)
    return x, x + 0.05 * noise(48, 16, seed=1)


def long_rows() -> Views:
    """Rows of norm 3000 * sqrt(1024): 96000."""
    x, y = noise(12, 1024), noise(12, 1024, seed=1)
    return 3000 * x.sign(), 3000 * (x + 0.1 * y).sign()


def normal_rows() -> Views:
    """What the loss wants: it is a small difference."""
    x = noise(4096, 8)
    return x, x


@dataclass(frozen=True)
class Case:
    """A loss, its published formula, views, and in which precision, reached by which way, the
    formula's value or gradient comes out wrong."""

    ours: Loss
    eager: Loss
    views: Callable[[], Views]
    wrong: tuple[tuple[torch.dtype, str], ...]


def nt_xent(x, y):
    return nt_xent_loss(x, y, temperature=0.05)


def sigreg(x, y):
    return sigreg_loss(x, num_slices=16) + 0 * y.sum()


IN_HALF = ((HALF, "views"), (HALF, "autocast"))
IN_BRAIN = ((BRAIN, "views"), (BRAIN, "autocast"))
CASES = {
    "vicreg, overflow": Case(vicreg_loss, eager_vicreg, large_covariances, IN_HALF),
    "vicreg, hinge": Case(vicreg_loss, eager_vicreg, almost_spread, IN_BRAIN[:1]),
    "barlow twins, overflow": Case(
        barlow_twins_loss, eager_barlow_twins, many_rows, IN_HALF + IN_BRAIN
    ),
    "barlow twins, diagonal": Case(
        barlow_twins_loss, eager_barlow_twins, almost_equal_views, IN_BRAIN
    ),
    "nt-xent, overflow": Case(nt_xent, eager_nt_xent, contrasts, IN_HALF + IN_BRAIN),
    "nt-xent, norms": Case(nt_xent, eager_nt_xent, long_rows, IN_HALF + IN_BRAIN),
    "sigreg, difference": Case(sigreg, eager_sigreg, normal_rows, IN_HALF[:1] + IN_BRAIN),
}
EVERY = [
    pytest.param(case, dtype, way, id=f"{name}-{str(dtype)[6:]}-{way}")
    for name, case in CASES.items()
    for dtype, way in case.wrong
]
LOSSES = {
    "vicreg": vicreg_loss,
    "barlow twins": barlow_twins_loss,
    "nt-xent": nt_xent,
    "sigreg": sigreg,
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def value_and_gradients(loss: Loss, views: Views, scale: float = 1.0) -> list[torch.Tensor]:
    """Gradients of ``scale`` times the loss, as a GradScaler asks for them."""
    leaves = [z.detach().clone().requires_grad_() for z in views]
    value = loss(*leaves)
    (scale * value).backward()
    return [value.detach(), *(z.grad for z in leaves)]


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative, by norm; a vanishing gradient has none."""
    return float((got.double() - exact).norm() / exact.norm()) if exact.any() else 0.0


@pytest.mark.parametrize(("case", "dtype", "way"), EVERY)
def test_right_where_eager_is_wrong(case, dtype, way):
    views = case.views()
    if way == "views":
        views = tuple(z.to(dtype) for z in views)
    exact = value_and_gradients(case.eager, tuple(z.double() for z in views))
    # A power of two that keeps gradients within float16's range, whatever the loss.
    scale = 2.0 ** -round(float(exact[1].abs().max().log2()))
    exact[1:] = [scale * g for g in exact[1:]]
    with torch.autocast("cpu", dtype=dtype, enabled=way == "autocast"):
        eager = value_and_gradients(case.eager, views, scale)
        ours = value_and_gradients(case.ours, views, scale)

    assert not all(error(e, w) < 0.03 for e, w in zip(eager, exact, strict=True))
    assert ours[0].dtype == torch.float32
    assert error(ours[0], exact[0]) < 1e-4
    for got, want, z in zip(ours[1:], exact[1:], views, strict=True):
        assert got.dtype == z.dtype
        # Half-precision gradients are rounded once, at the end.
        assert error(got, want) < max(torch.finfo(z.dtype).eps / 2, 1e-4)


@each_loss
@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=["float16", "bfloat16"])
def test_training_step_under_grad_scaler(loss, dtype):
    """An encoder in autocast: finite gradients, a step that is not skipped, and gradients that are
    off by no more than the encoder's own precision."""
    images, others = noise(64, 12), noise(64, 12, seed=1)
    others = images + 0.3 * others
    encoder = torch.nn.Linear(12, 24)
    torch.nn.init.normal_(encoder.weight, generator=torch.Generator().manual_seed(0))
    exact_encoder = torch.nn.Linear(12, 24).double()
    exact_encoder.load_state_dict(encoder.state_dict())
    loss(exact_encoder(images.double()), exact_encoder(others.double())).backward()
    before = encoder.weight.detach().clone()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)

    with torch.autocast("cpu", dtype=dtype):
        value = loss(encoder(images), encoder(others))
    assert value.dtype == torch.float32
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)
    assert error(encoder.weight.grad, exact_encoder.weight.grad) < 8 * torch.finfo(dtype).eps
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**8
    assert not torch.equal(encoder.weight, before)


def test_grad_scaler_steps_where_eager_never_would():
    """Eager overflows in the forward pass, which no scale can help."""
    views = tuple(z.to(HALF) for z in large_covariances())
    for loss, steps in ((eager_vicreg, False), (vicreg_loss, True)):
        factor = torch.nn.Parameter(torch.ones(24))
        optimizer = torch.optim.SGD([factor], lr=1e-6)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-12)
        with torch.autocast("cpu", dtype=HALF):
            value = loss(*((factor.to(HALF) * z) for z in views))
        scaler.scale(value).backward()
        scaler.step(optimizer)
        assert bool((factor != 1).any()) == steps


@pytest.mark.parametrize("loss", [LOSSES[name] for name in LOSSES if name != "vicreg"])
@pytest.mark.parametrize("dtype", [HALF, torch.float32, torch.float64], ids=lambda d: str(d)[6:])
def test_double_backward_says_that_there_is_none(loss, dtype):
    x, y = (noise(6, 5, seed=s).to(dtype).requires_grad_() for s in (0, 1))
    first = torch.autograd.grad(loss(x, y), (x, y), create_graph=True)
    plain = torch.autograd.grad(loss(x, y), (x, y))
    assert all(torch.equal(a, b) for a, b in zip(first, plain, strict=True))
    with pytest.raises(NotImplementedError, match=r"differentiable once: .* \(double backward\)"):
        torch.autograd.grad(first[0].square().sum(), x)
