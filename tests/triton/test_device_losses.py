"""What only a GPU can answer about Barlow Twins, NT-Xent and SIGReg: graphs, waiting, size.

SIGReg takes one view; here it is given the first.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sslkernels.backends.triton.barlow_twins import forward as barlow_twins
from sslkernels.backends.triton.barlow_twins.gradient import barlow_twins_backward
from sslkernels.backends.triton.nt_xent import forward as nt_xent
from sslkernels.backends.triton.nt_xent.gradient import nt_xent_backward
from sslkernels.backends.triton.sigreg import forward as sigreg
from sslkernels.backends.triton.sigreg.gradient import sigreg_backward
from sslkernels.passes.sigreg import SIGRegSettings
from tests.triton.loss_cases import views as cpu_views

pytestmark = pytest.mark.device_only

Step = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
SETTINGS = SIGRegSettings(num_slices=100, num_knots=17, t_min=0.0, t_max=3.0, seed=12345)


def barlow_twins_step(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    terms, *saved = barlow_twins.barlow_twins_forward(x, y, 0.0051, 1e-5)
    grad = torch.ones_like(terms)
    grads = barlow_twins_backward(grad, x, y, *saved, 0.0051, True, True)
    return terms, *(g for g in grads if g is not None)


def nt_xent_step(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    terms, rows = nt_xent.nt_xent_forward(x, y, 0.1)
    grads = nt_xent_backward(torch.ones_like(terms), x, y, rows, 0.1, True, True)
    return terms, *(g for g in grads if g is not None)


def sigreg_step(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    step = torch.full((), 3, dtype=torch.int64, device=x.device)
    sums = sigreg.sigreg_forward(x, step, SETTINGS)
    return sums, sigreg_backward(torch.ones_like(sums), x, step, SETTINGS)


def sigreg_step_by_value(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What ``sigreg_loss(z, step=3)`` passes."""
    step = torch.tensor(3)
    sums = sigreg.sigreg_forward(x, step, SETTINGS)
    return sums, sigreg_backward(torch.ones_like(sums), x, step, SETTINGS)


STEPS = (barlow_twins_step, nt_xent_step, sigreg_step, sigreg_step_by_value)
DTYPES = (torch.float32, torch.bfloat16)


def views(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return cpu_views(n, d, dtype, torch.device("cuda"), seed)


def room(gib: int) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gib << 30:
        pytest.skip(f"needs {gib} GiB of free device memory, has {free >> 30}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n, d", [(128, 1000), (300, 64)])
@pytest.mark.parametrize("step", STEPS)
def test_does_not_wait_and_can_be_captured(step: Step, n: int, d: int, dtype: torch.dtype) -> None:
    x, y = views(n, d, dtype)
    step(x, y)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(x, y)
    for seed in (1, 2):
        new_x, new_y = views(n, d, dtype, seed)
        x.copy_(new_x)
        y.copy_(new_y)
        graph.replay()
        for ours, direct in zip(captured, step(new_x, new_y), strict=True):
            assert torch.equal(ours, direct)


@pytest.mark.parametrize("step", STEPS)
def test_bits_repeat(step: Step) -> None:
    x, y = views(2000, 500, torch.bfloat16)
    first = step(x, y)
    for _ in range(2):
        for one, two in zip(first, step(x, y), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("step", STEPS)
def test_rows_that_lie_more_than_2_31_elements_apart(step: Step) -> None:
    """Rows at the ends of long ones, read where they lie, give the bits of a copy."""
    room(12)
    n, d, stride = 4100, 64, (1 << 19) + 8
    spread = []
    for z in views(n, d, torch.bfloat16):
        spread.append(torch.empty(n, stride, dtype=z.dtype, device="cuda")[:, -d:])
        spread[-1].copy_(z)
    together = [z.contiguous() for z in spread]
    for apart, expected in zip(step(*spread), step(*together), strict=True):
        assert torch.equal(apart, expected)


@pytest.mark.parametrize("step", [barlow_twins_step, nt_xent_step])
def test_more_than_2_31_elements(step: Step) -> None:
    """Columns of zeros add nothing but, to Barlow Twins, a correlation of 0 each."""
    room(72)
    n, d, some = 4096, (1 << 19) + 64, 64
    small = views(n, some, torch.bfloat16)
    large = []
    for z in small:
        large.append(torch.zeros(n, d, dtype=z.dtype, device="cuda"))
        large[-1][:, -some:] = z
    terms, *grads = step(*small)
    found_terms, *found_grads = step(*large)
    zeros = float(d - some) if step is barlow_twins_step else 0.0
    added = torch.tensor([zeros, zeros, 0.0], device="cuda")
    torch.testing.assert_close(found_terms - added, terms, rtol=1e-2, atol=0.1)
    for found, grad in zip(found_grads, grads, strict=True):
        assert not found[:, :-some].any()
        error = (found[:, -some:].double() - grad.double()).norm() / grad.double().norm()
        assert error < 2.0**-6


def test_more_than_2_31_elements_of_sigreg() -> None:
    """Rows of zeros add a cosine of 1 each."""
    room(20)
    n, d = (1 << 31) // 512 + 70, 512
    z = torch.zeros(n, d, dtype=torch.bfloat16, device="cuda")
    z[-3:] = views(3, d, torch.bfloat16)[0]
    last = z[-3:].clone()
    sums, grad = sigreg_step(z, z)
    last_sums, last_grad = sigreg_step(last, last)
    added = torch.tensor([n - 3.0, 0.0], dtype=torch.float64, device="cuda")
    torch.testing.assert_close(sums, last_sums + added, rtol=1e-7, atol=1e-4)
    assert torch.equal(grad[-3:], last_grad)
    assert torch.equal(grad[: n - 3], grad[:1].expand(n - 3, d))
