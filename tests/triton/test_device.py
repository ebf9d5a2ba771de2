"""What only a GPU can answer: size, graphs, streams, devices, compilations, stray accesses."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
import triton

from sslkernels.backends.triton.core import launch, tuning
from sslkernels.backends.triton.product import column_moments
from sslkernels.backends.triton.vicreg import forward as vicreg
from sslkernels.passes.vicreg import VICRegSettings

pytestmark = pytest.mark.device_only

SETTINGS = VICRegSettings(25.0, 25.0, 1.0)


def step(x, y, grad):
    forward = vicreg.vicreg_forward(x, y, SETTINGS)
    needs = (True, y is not None)
    return forward[0], *vicreg.vicreg_backward(grad, x, y, *forward[1:], SETTINGS, *needs)


def views(n, d, dtype, device="cuda", seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(1, n, d, generator=generator, device=device)
    return x.to(dtype), (x + 0.3 * torch.randn_like(x)).to(dtype), torch.ones(4, device=device)


def test_more_than_2_31_elements() -> None:
    n, d = (1 << 31) // 512 + 3, 512
    free, _ = torch.cuda.mem_get_info()
    if free < 8 * n * d:
        pytest.skip(f"needs {8 * n * d >> 30} GiB of free device memory, has {free >> 30}")
    x = torch.empty(1, n, d, dtype=torch.bfloat16, device="cuda").normal_()
    x[0, -1] = 100.0  # the row that an overflowing offset misses
    with launch.on_device(x):
        mean, var, _ = column_moments.column_moments(x, None, 1.0, 1e-4, launch.device_of(x))
    chunks = x[0].split(1 << 18)
    true_mean = sum(c.sum(0, dtype=torch.float64) for c in chunks) / n
    true_var = sum((c.double() - true_mean).square().sum(0) for c in chunks) / (n - 1)
    torch.testing.assert_close(mean[0, 0], true_mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(var[0, 0], true_var, rtol=1e-5, atol=0)
    _, grad_x, _ = step(x, None, torch.ones(4, device="cuda"))
    # Far from every other row, the last one's gradient is the covariance term's.
    rows = torch.tensor([0, n // 2, n - 1], device="cuda")
    s = sum((c.double() - true_mean).T @ (c.double() - true_mean) for c in chunks)
    s.fill_diagonal_(0)
    z = x[0, rows].double() - true_mean
    sd = (true_var + SETTINGS.eps).sqrt()
    true = (1 + SETTINGS.cov) * 4 / (d * (n - 1) ** 2) * (z @ s)
    true -= (1 + SETTINGS.std) * torch.where(sd < 1, z / (d * (n - 1) * sd), 0)
    error = (grad_x[0, rows].double() - true).norm(dim=1) / true.norm(dim=1)
    assert error.max() < 2.0**-6


@pytest.mark.parametrize("n, d", [(256, 4096), (512, 256)])
def test_captured_in_a_graph(n, d) -> None:
    x, y, grad = views(n, d, torch.bfloat16)
    step(x, y, grad)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(x, y, grad)
    for seed in (1, 2):
        new_x, new_y, _ = views(n, d, torch.bfloat16, seed=seed)
        x.copy_(new_x)
        y.copy_(new_y)
        graph.replay()
        for ours, direct in zip(captured, step(new_x, new_y, grad), strict=True):
            assert torch.equal(ours, direct)


def test_on_another_stream() -> None:
    x, y, grad = views(512, 1024, torch.float32)
    expected = step(x, y, grad)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # anything launched elsewhere would run before this ends
        late_x, late_y = x.clone(), y.clone()
        found = step(late_x, late_y, grad)
    stream.synchronize()
    for ours, direct in zip(found, expected, strict=True):
        assert torch.equal(ours, direct)


def test_on_another_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, y, grad = views(256, 512, torch.bfloat16, device="cuda:1")
    expected = [z.cpu() for z in step(*(z.to("cuda:0") for z in (x, y, grad)))]
    for ours, direct in zip(step(x, y, grad), expected, strict=True):
        assert ours.device == x.device
        assert torch.equal(ours.cpu(), direct)


def test_ragged_batches_do_not_recompile() -> None:
    compiled = []
    step(*views(256, 1024, torch.bfloat16))
    hook = triton.knobs.runtime.jit_post_compile_hook
    triton.knobs.runtime.jit_post_compile_hook = lambda **event: compiled.append(event["repr"])
    try:
        for n in (255, 253, 252, 250, 240, 129):
            step(*views(n, 1024, torch.bfloat16))
    finally:
        triton.knobs.runtime.jit_post_compile_hook = hook
    assert not compiled


def test_autotuned_choices_agree(monkeypatch) -> None:
    x, y, grad = views(384, 1536, torch.bfloat16)
    expected = step(x, y, grad)
    monkeypatch.setattr(tuning, "AUTOTUNE", True)
    for ours, direct in zip(step(x, y, grad), expected, strict=True):
        torch.testing.assert_close(
            ours, direct, rtol=2.0**-7, atol=2.0**-7 * direct.abs().max().item()
        )


def test_no_host_synchronisation() -> None:
    x, y, grad = views(256, 1024, torch.bfloat16)
    step(x, y, grad)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, y, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_no_stray_access() -> None:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        pytest.skip("compute-sanitizer is not installed")
    script = """
import torch
from sslkernels.backends.triton.vicreg import forward as vicreg
from sslkernels.passes.vicreg import VICRegSettings
for n, d in ((33, 77), (77, 33), (130, 1000)):
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(1, n, d, device="cuda", dtype=dtype)
        s = VICRegSettings(25.0, 25.0, 1.0)
        f = vicreg.vicreg_forward(x, x, s)
        vicreg.vicreg_backward(torch.ones(4, device="cuda"), x, x, *f[1:], s, True, True)
torch.cuda.synchronize()
"""
    command = [tool, "--error-exitcode", "9", sys.executable, "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
