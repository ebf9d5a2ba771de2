"""SIGReg's kernels against the float64 reference; tolerances as in loss_cases.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sslkernels as ssk
from sslkernels import reference
from sslkernels.backends.triton.core import launch
from sslkernels.backends.triton.product import tiles
from sslkernels.backends.triton.sigreg import forward as sigreg
from sslkernels.backends.triton.sigreg import slices as sigreg_slices
from sslkernels.passes.sigreg import SIGRegSettings, step_beside
from sslkernels.reference.sigreg import slices
from tests.triton import loss_cases
from tests.triton.loss_cases import DTYPES, FLOOR, LAYOUTS, array, error, strided

OPTIONS = (6, 17, 0.0, 3.0, 12345)  # slices, knots, t_min, t_max, seed


def rows(n, d, dtype, device):
    z = 1.5 * torch.randn(n, d, generator=torch.Generator().manual_seed(0)) + 0.3
    return z.to(device, dtype)


def upstream(options, device):
    generator = torch.Generator().manual_seed(1)
    shape = (*options[:2], 2)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)


def truth(z, step, grad, options):
    """Sums and gradient in float64."""
    num_slices, num_knots, t_min, t_max, seed = options
    z = array(z)
    directions = slices(num_slices, z.shape[1], seed=seed, step=step % 2**64)
    t = np.linspace(t_min, t_max, num_knots)
    angle = (z @ directions.T)[..., None] * t
    sums = np.stack([np.cos(angle).sum(0), np.sin(angle).sum(0)], -1)
    g, h = np.moveaxis(array(grad), -1, 0)
    return sums, (t * (h * np.cos(angle) - g * np.sin(angle))).sum(-1) @ directions


def run(z, step, grad, options):
    step, settings = torch.tensor(step), SIGRegSettings(*options)
    sums = sigreg.sigreg_forward(z, step, settings)
    return sums, sigreg.sigreg_backward(grad, z, step, settings)


def check(z, step=0, options=OPTIONS) -> None:
    grad = upstream(options, z.device)
    sums, grad_z = run(z, step, grad, options)
    true_sums, true_grad = truth(z, step, grad, options)
    assert sums.dtype == torch.float64 and sums.is_contiguous()
    assert grad_z.dtype == z.dtype and grad_z.shape == z.shape and grad_z.is_contiguous()
    num_slices, num_knots, t_min, t_max, seed = options
    directions = slices(num_slices, z.shape[1], seed=seed, step=step % 2**64)
    directions = torch.from_numpy(directions).to(z.device, z.dtype)
    t = torch.linspace(t_min, t_max, num_knots, device=z.device, dtype=z.dtype)

    def formula(z: torch.Tensor) -> torch.Tensor:
        angle = (z @ directions.T).unsqueeze(-1) * t
        return torch.stack((angle.cos().sum(0), angle.sin().sum(0)), -1)

    leaf = z.detach().clone().requires_grad_()
    eager = formula(leaf)
    eager.backward(grad.to(eager.dtype))
    loss_cases.assert_as_good(
        [sums, grad_z], [eager, leaf.grad], [true_sums, true_grad], z.dtype, times=4
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, d", [(1, 1), (37, 77), (70, 24)])
def test_against_reference(n, d, dtype, device) -> None:
    check(rows(n, d, dtype, device))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout, device) -> None:
    check(strided(layout, 20, 24, device))


@pytest.mark.parametrize("options", [(3, 2, 0.2, 4.0, 0), (66, 18, -1.0, 1.0, 2**63 - 1)])
def test_options(options, device) -> None:
    check(rows(20, 10, torch.float32, device), 5, options)


@pytest.mark.parametrize("step", [0, 2**40 + 3, -7])
def test_slices_are_the_reference_ones(step, device) -> None:
    num_slices, dim, seed = 3, 301, 2**45 + 12345
    out = torch.empty(2, num_slices, 304, device=device)
    turned = torch.zeros(2, dim, 16, device=device)
    with launch.on_device(out):
        number = torch.tensor(step, device=device)
        sigreg_slices.slices(number, out, turned, num_slices, dim, seed, "split")
    true = slices(num_slices, dim, seed=seed, step=step % 2**64)
    np.testing.assert_allclose(array(out.sum(0)[:, :dim]), true, rtol=0, atol=2.0**-23)
    assert torch.equal(turned[:, :, :num_slices].mT, out[:, :, :dim])
    assert (out[:, :, dim:] == 0).all() and (turned[:, :, num_slices:] == 0).all()


class NoCopies(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "copy" not in func.name(), func.name()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_a_step_on_the_cpu_is_not_copied(where) -> None:
    """Memory of the host may not be read while a graph is captured: the number goes by value."""
    z = torch.zeros(2, 3, device=where)
    with NoCopies():
        beside = step_beside(z, torch.tensor(2**40 + 5))
    assert beside.device == z.device and beside.dtype == torch.int64 and beside.ndim == 0
    assert where == "meta" or int(beside) == 2**40 + 5


def test_large_angles(device) -> None:
    z = 300 * rows(30, 8, torch.float32, device)
    grad = upstream(OPTIONS, device)
    sums, grad_z = run(z, 0, grad, OPTIONS)
    true_sums, true_grad = truth(z, 0, grad, OPTIONS)
    largest = 3 * float(z.norm(dim=1).max())  # an angle errs by some roundings of its size
    assert error(sums, true_sums) <= largest * 2.0**-23
    assert error(grad_z, true_grad) <= largest * 2.0**-23


def test_small_upstream_gradients_stay_in_range(device) -> None:
    z = rows(20, 8, torch.float32, device)
    grad = upstream(OPTIONS, device)
    _, grad_z = run(z, 0, grad, OPTIONS)
    _, small = run(z, 0, grad * 2.0**-110, OPTIONS)
    assert error(small * 2.0**110, array(grad_z)) <= 2.0**-22
    _, none = run(z, 0, torch.zeros_like(grad), OPTIONS)
    assert (none == 0).all()


def test_rows_in_turns(device, monkeypatch) -> None:
    z = rows(140, 12, torch.float32, device)
    grad = upstream(OPTIONS, device)
    sums, grad_z = run(z, 0, grad, OPTIONS)
    monkeypatch.setattr(tiles, "WORKSPACE", 1)  # one tile of rows, or 128 rows, at a time
    sums_in_turns, grad_in_turns = run(z, 0, grad, OPTIONS)
    assert torch.equal(sums, sums_in_turns)
    assert error(grad_in_turns, array(grad_z)) <= FLOOR[torch.float32]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_value_is_not_hidden(value, device) -> None:
    z = rows(20, 8, torch.float32, device)
    z[3, 5] = value
    sums, grad_z = run(z, 0, upstream(OPTIONS, device), OPTIONS)
    assert sums.isnan().all() and grad_z[3].isnan().all()
    assert grad_z[4:].isfinite().all()


def test_bitwise_repeatable(device) -> None:
    z = rows(70, 20, torch.bfloat16, device)
    grad = upstream(OPTIONS, device)
    for a, b in zip(run(z, 3, grad, OPTIONS), run(z, 3, grad, OPTIONS), strict=True):
        assert torch.equal(a, b)


def test_the_public_function(device) -> None:
    z = rows(30, 10, torch.float32, device).requires_grad_()
    with ssk.use_backend("triton"):
        loss = ssk.sigreg_loss(z, num_slices=8, seed=1, step=2)
        loss.backward()
    settings = {"num_slices": 8, "seed": 1, "step": 2}
    assert loss.item() == pytest.approx(reference.sigreg_loss(array(z), **settings), rel=2.0**-18)
    assert error(z.grad, reference.sigreg_grad(array(z), **settings)) <= 4 * FLOOR[torch.float32]


def test_float64_names_the_backend_that_serves_it(device) -> None:
    z = rows(4, 5, torch.float64, device)
    with ssk.use_backend("triton"), pytest.raises(RuntimeError, match="torch backend"):
        ssk.sigreg_loss(z)
