"""Moments of unit rows on the device (or interpreted), against plain float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import sslkernels as ssk
from sslkernels.backends.triton.core import launch
from sslkernels.backends.triton.unit_moments import rows as passes
from sslkernels.backends.triton.unit_moments import rows as unit_rows
from tests.inputs import LAYOUTS, lay_out
from tests.triton.class_cases import DTYPES


def check(z: torch.Tensor) -> None:
    mean, m2 = passes.unit_moments_forward(z)
    x = z.double().cpu().numpy()
    length = np.sqrt((x * x).sum(1, keepdims=True))
    u = x / np.where(length == 0, 1, length)
    np.testing.assert_allclose(mean.cpu().numpy(), u.mean(0), rtol=1e-9, atol=1e-14)
    true = ((u - u.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(m2.cpu().numpy(), true, rtol=1e-9, atol=1e-14)


def normal(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n + d), dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (67, 130), (200, 9), (3, 1100)])
def test_equals_float64(n: int, d: int, dtype: torch.dtype, device: torch.device) -> None:
    check((normal(n, d) + 0.5).to(dtype).to(device))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, device: torch.device) -> None:
    check(lay_out(normal(40, 24).float(), layout).to(device))


def test_stretches_merge(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_rows, "cut_rows", lambda programs, rows, device: 7)
    for n in (100, 98, 20, 5):
        check(normal(n, 16).bfloat16().to(device))


def test_rows_that_hardly_differ(device: torch.device) -> None:
    z = (1000 + 1e-3 * normal(300, 12)).float()
    check(z.to(device))


def test_extreme_scales_zeros_and_what_is_not_finite(device: torch.device) -> None:
    z = normal(30, 6).float()
    z[0], z[1], z[2] = 0.0, z[1] * 1e-38, z[2] * 1e38
    check(z.to(device))
    for value in (torch.nan, torch.inf):
        z[5, 3] = value
        mean, m2 = passes.unit_moments_forward(z.to(device))
        assert mean.isnan().all() and m2.isnan().all()
    mean, m2 = passes.unit_moments_forward(torch.empty(0, 4, device=device))
    assert not mean.any() and not m2.any()


def test_public_normalized_std(device: torch.device) -> None:
    z = normal(150, 20).float().to(device)
    with ssk.use_backend("torch"):
        expected = ssk.normalized_std(z)
    with ssk.use_backend("triton"):
        torch.testing.assert_close(ssk.normalized_std(z), expected, rtol=1e-9, atol=0)


def test_stretches_fill_the_device() -> None:
    device = launch.Device("cuda", 90, 32, 132, 232448)
    assert unit_rows.cut_rows(16, 1_281_167, device) == 132
    assert unit_rows.cut_rows(1, 10**9, device) == 16 * 132
    assert unit_rows.cut_rows(1, 63, device) == 1


@pytest.mark.device_only
def test_does_not_wait_and_can_be_captured() -> None:
    z = normal(5000, 300).bfloat16().cuda()
    passes.unit_moments_forward(z)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager = passes.unit_moments_forward(z)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = passes.unit_moments_forward(z)
    graph.replay()
    for one, two in zip(captured, eager, strict=True):
        assert torch.equal(one, two)


@pytest.mark.device_only
def test_more_than_2_to_the_31_elements() -> None:
    n, d = (1 << 31) // 64 + 4, 64
    z = torch.zeros(n, d, dtype=torch.float16, device="cuda")
    z[-4:, 1] = 3.0
    mean, m2 = (t.cpu() for t in passes.unit_moments_forward(z))
    np.testing.assert_allclose(mean[1], 4 / n, rtol=1e-9)
    np.testing.assert_allclose(m2[1], 4 - 16 / n, rtol=1e-9)
    assert int(mean.count_nonzero()) == int(m2.count_nonzero()) == 1
