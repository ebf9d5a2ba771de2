"""VICReg's kernels against the float64 reference.

Tolerances: an error may be twice what the official formula loses in eager torch at the same dtype
on the same data (both measured against the float64 reference in the same test), and where eager is
lucky, no less than ``FLOOR``: eight roundings of fp32, because the N x N side's subtraction may
lose a factor of eight, or two of the half type.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sslkernels as ssk
from sslkernels import reference
from sslkernels.backends.triton.vicreg import forward as vicreg
from sslkernels.backends.triton.vicreg import gradient
from sslkernels.numerics.views import wide
from sslkernels.passes.vicreg import VICRegSettings
from sslkernels.reference import vicreg as exact
from tests.triton.loss_cases import DTYPES, FLOOR

SETTINGS = (25.0, 25.0, 1.0, 1.0, 1e-4)  # sim, std, cov, gamma, eps
ALL = (True, True, True)


def views(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two correlated views [P, N, D] with columns of unequal spread, some of it below gamma."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.3, 1.8, shape[-1])
    mean = torch.randn(shape[-1], generator=generator)
    x = torch.randn(shape, generator=generator) * scale + mean
    y = x + 0.3 * torch.randn(shape, generator=generator)
    return x.to(device, dtype), y.to(device, dtype)


def run(x, y, grad, flags=ALL, needs=(True, True)):
    settings = VICRegSettings(*SETTINGS, *flags)
    forward = vicreg.vicreg_forward(x, y, settings)
    return forward, vicreg.vicreg_backward(grad, x, y, *forward[1:], settings, *needs)


def upstream(device: torch.device) -> torch.Tensor:
    return torch.tensor([1.0, 0.3, -2.0, 0.7], device=device)


def eager(x, y, grad):
    """Terms and gradients of the official formula in x's dtype, mean over problems."""
    sim, std, cov, gamma, eps = SETTINGS
    x, y = (None if z is None else z.detach().clone().requires_grad_() for z in (x, y))
    both = [z for z in (x, y) if z is not None]
    p, n, d = x.shape
    centered = [z - z.mean(1, keepdim=True) for z in both]
    invariance = (x - y).square().mean() if y is not None else x.sum() * 0
    hinges = [torch.relu(gamma - torch.sqrt(z.var(1) + eps)).mean() for z in both]
    variance = sum(hinges) / len(both)
    covariance = 0.0
    for z in centered:
        s = z.mT @ z / (n - 1)
        off = s.flatten(1)[:, :-1].view(p, d - 1, d + 1)[:, :, 1:]
        covariance = covariance + off.pow(2).sum() / d / p
    loss = sim * invariance + std * variance + cov * covariance
    terms = torch.stack([loss, invariance, variance, covariance])
    terms.backward(grad.to(terms.dtype))
    return terms.detach(), [z.grad for z in both]


def truth(x, y, grad):
    """The same from the NumPy reference, in float64."""
    sim, std, cov, gamma, eps = SETTINGS
    x64, y64 = (None if z is None else z.double().movedim(0, 1).cpu().numpy() for z in (x, y))
    both = [z for z in (x64, y64) if z is not None]
    spread = {"gamma": gamma, "eps": eps}
    invariance = 0.0 if y64 is None else exact.invariance_loss(x64, y64)
    variance = np.mean([exact.variance_loss(z, **spread) for z in both])
    covariance = np.sum([exact.covariance_loss(z) for z in both])
    terms = [sim * invariance + std * variance + cov * covariance, invariance, variance, covariance]
    g = grad.double().cpu().numpy()
    of = g[0] * np.array([sim, std, cov]) + g[1:]
    pull = 0.0 if y64 is None else of[0] * 2 * (x64 - y64) / x64.size
    grads = [
        sign * pull
        + of[1] / len(both) * exact.variance_grad(z, **spread)
        + of[2] * exact.covariance_grad(z)
        for sign, z in zip((1, -1), both, strict=False)
    ]
    return np.array(terms), [np.moveaxis(z, 0, 1) for z in grads]


def error(value: torch.Tensor, true: np.ndarray) -> float:
    scale = np.linalg.norm(true)
    return float(np.linalg.norm(value.double().cpu().numpy() - true) / (scale or 1.0))


def check(x, y, grad) -> None:
    (terms, mean, var, gram), grads = run(x, y, grad)
    true_terms, true_grads = truth(x, y, grad)
    eager_terms, eager_grads = eager(x, y, grad)
    _, n, d = x.shape
    side = n if wide(n, d) else d
    assert mean.dtype == var.dtype == torch.float64
    assert gram.dtype == terms.dtype == torch.float32
    assert gram.shape == (1 if y is None else 2, x.shape[0], side, side)
    floor = FLOOR[x.dtype]
    for ours, theirs, true in zip(terms, eager_terms, true_terms, strict=True):
        assert error(ours, true) <= max(2 * error(theirs, true), floor)
    for ours, theirs, true in zip(grads, eager_grads, true_grads, strict=False):
        assert ours.dtype == x.dtype and ours.shape == x.shape and ours.is_contiguous()
        assert error(ours, true) <= max(2 * error(theirs, true), floor)


SHAPES = [(1, 2, 8), (1, 33, 77), (1, 77, 33), (1, 56, 64), (1, 57, 64), (3, 20, 40), (1, 130, 200)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_reference(shape, dtype, device) -> None:
    x, y = views(shape, dtype, device)
    check(x, y, upstream(device))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 24, 40), (1, 50, 16)])
def test_one_view(shape, dtype, device) -> None:
    x, _ = views(shape, dtype, device)
    check(x, None, upstream(device))


@pytest.mark.parametrize(
    "layout", ["rows", "columns", "transposed", "offset", "middle", "same row"]
)
def test_strides(layout, device) -> None:
    n, d = 40, 48
    base = torch.randn(2, 97, 101, generator=torch.Generator().manual_seed(1)).to(device)
    take = {
        "rows": lambda b: b[None, : 2 * n : 2, :d],
        "columns": lambda b: b[None, :n, : 2 * d : 2],
        "transposed": lambda b: b[:d, :n].T[None],
        "offset": lambda b: b[None, 1 : n + 1, 1 : d + 1],  # no 16-byte alignment
        "middle": lambda b: b[: 2 * n].view(n, 2, 101)[:, :, :d].transpose(0, 1),  # [N, P, D]
        "same row": lambda b: b[None, :1, :d].expand(1, n, d),
    }[layout]
    x = take(base[0])
    y = take(base[1]) if layout != "same row" else torch.randn_like(x)
    check(x, y, upstream(device))


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_common_offset_costs_no_digits(offset, device) -> None:
    x, y = views((1, 40, 72), torch.float32, device)
    x, y = x + offset, y + offset  # exact inputs from here on: the rounding is part of the data
    (terms, *_), grads = run(x, y, upstream(device))
    true_terms, true_grads = truth(x, y, upstream(device))
    assert error(terms, true_terms) <= FLOOR[torch.float32]
    for ours, true in zip(grads, true_grads, strict=True):
        assert error(ours, true) <= FLOOR[torch.float32]


def test_half_precision_near_its_limits(device) -> None:
    x, y = views((1, 24, 40), torch.float32, device)
    x, y = (z.clamp(-4, 4).mul(16000).half() for z in (x, y))
    grad = upstream(device) * 2.0**-40  # so that the gradient itself fits
    (terms, *_), grads = run(x, y, grad)
    true_terms, true_grads = truth(x, y, grad)
    assert error(terms, true_terms) <= FLOOR[torch.float16]
    for ours, true in zip(grads, true_grads, strict=True):
        assert error(ours, true) <= 2 * error(torch.from_numpy(true).half(), true) + 2.0**-10


@pytest.mark.parametrize("precision, tolerance", [("highest", 2.0**-20), ("high", 2.0**-10)])
def test_fp32_products_follow_the_torch_setting(precision, tolerance, device) -> None:
    before = torch.get_float32_matmul_precision()
    x, y = views((1, 64, 160), torch.float32, device)
    try:
        torch.set_float32_matmul_precision(precision)
        (terms, *_), grads = run(x, y, upstream(device))
    finally:
        torch.set_float32_matmul_precision(before)
    true_terms, true_grads = truth(x, y, upstream(device))
    errors = [error(ours, true) for ours, true in zip(grads, true_grads, strict=True)]
    assert max(*errors, error(terms, true_terms)) <= tolerance
    assert precision == "highest" or max(errors) > 2.0**-20  # the setting does reach the product


@pytest.mark.parametrize("flags", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
def test_only_the_terms_asked_for(flags, device) -> None:
    flags = tuple(map(bool, flags))
    x, y = views((1, 20, 40), torch.float32, device)
    grad = upstream(device)
    (terms, mean, var, gram), grads = run(x, y, grad, flags)
    wanted = torch.tensor([0.0, *flags], device=device)
    full, _ = truth(x, y, grad)
    full[0] = np.dot(full[1:] * flags, SETTINGS[:3])
    full[1:] *= flags
    assert error(terms, full) <= FLOOR[torch.float32]
    kept = 40 if flags[1] or flags[2] else 0
    assert mean.shape == var.shape == (2, 1, kept)
    assert gram.shape == ((2, 1, 20, 20) if flags[2] else (2, 1, 0, 0))
    # The gradient of the terms asked for is the full gradient under a gradient zero elsewhere.
    of = grad[0] * torch.tensor([0.0, *SETTINGS[:3]], device=device) + grad
    _, true_grads = truth(x, y, of * wanted)
    for ours, true in zip(grads, true_grads, strict=True):
        assert error(ours, true) <= FLOOR[torch.float32]


def test_one_gradient_only(device) -> None:
    x, y = views((2, 20, 40), torch.float32, device)
    grad = upstream(device)
    _, (grad_x, grad_y) = run(x, y, grad)
    _, (only_x, none) = run(x, y, grad, needs=(True, False))
    assert none is None and torch.equal(only_x, grad_x)
    _, (none, only_y) = run(x, y, grad, needs=(False, True))
    assert none is None and torch.equal(only_y, grad_y)


@pytest.mark.parametrize("n, d", [(1200, 24), (24, 600)])
def test_split_rows_and_split_contractions(n, d, device) -> None:
    x, y = views((1, n, d), torch.float32, device)
    check(x, y, upstream(device))


@pytest.mark.parametrize("n, d", [(20, 40), (40, 20)])
def test_problems_in_turns(n, d, device, monkeypatch) -> None:
    x, y = views((3, n, d), torch.bfloat16, device)
    (terms, *_), grads = run(x, y, upstream(device))
    for module in vicreg, gradient:
        monkeypatch.setattr(module, "problems_at_once", lambda count, size: min(count, 4))
    (terms_4, *_), grads_4 = run(x, y, upstream(device))
    assert torch.equal(terms, terms_4)
    for ours, others in zip(grads, grads_4, strict=True):
        assert torch.equal(ours, others)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bad_value_is_not_hidden(value, dtype, device) -> None:
    x, y = views((1, 20, 40), dtype, device)
    x[0, 3, 5] = value
    (terms, *_), (grad_x, _) = run(x, y, upstream(device))
    assert not terms.isfinite().any()
    assert grad_x[0, :, 5].isnan().all()


def test_bitwise_repeatable(device) -> None:
    x, y = views((1, 70, 200), torch.bfloat16, device)
    first, first_grads = run(x, y, upstream(device))
    again, again_grads = run(x, y, upstream(device))
    for a, b in zip((*first, *first_grads), (*again, *again_grads), strict=True):
        assert torch.equal(a, b)


def test_expanded_upstream_gradient(device) -> None:
    x, y = views((1, 20, 40), torch.float32, device)
    _, grads = run(x, y, torch.ones(1, device=device).expand(4))
    _, dense = run(x, y, torch.ones(4, device=device))
    assert all(torch.equal(a, b) for a, b in zip(grads, dense, strict=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_through_the_public_function(compiled, device) -> None:
    x, y = (z[0].requires_grad_() for z in views((1, 20, 40), torch.float32, device))
    loss = ssk.vicreg_loss
    if compiled:
        engine = "aot_eager" if device.type == "cpu" else "inductor"
        loss = torch.compile(ssk.vicreg_loss, fullgraph=True, backend=engine)
    with ssk.use_backend("triton"):
        value = loss(x, y)
        value.backward()
    x64, y64 = (z.detach().double().cpu().numpy() for z in (x, y))
    assert value.item() == pytest.approx(reference.vicreg_loss(x64, y64), rel=2.0**-20)
    for z, true in zip((x, y), reference.vicreg_grad(x64, y64), strict=True):
        assert error(z.grad, true) <= FLOOR[torch.float32]


def test_float64_names_the_backend_that_serves_it(device) -> None:
    x, y = (z[0] for z in views((1, 20, 40), torch.float64, device))
    with ssk.use_backend("triton"), pytest.raises(RuntimeError, match="torch backend"):
        ssk.vicreg_loss(x, y)


def test_the_reference_agrees_with_itself() -> None:
    """``truth`` composes the reference's parts as its own ``vicreg_loss`` does."""
    x, y = views((1, 20, 40), torch.float32, torch.device("cpu"))
    terms, _ = truth(x, y, upstream(torch.device("cpu")))
    assert terms[0] == pytest.approx(reference.vicreg_loss(x[0].numpy(), y[0].numpy()))
