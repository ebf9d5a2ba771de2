"""Sums over pairs of class means on the device (or interpreted) against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sslkernels as ssk

pytest.importorskip("triton")

from sslkernels.backends.triton.mean_pairs import pairs
from tests.class_means import moments, want_cdnv, want_cosines


def run(
    device: torch.device, mean: torch.Tensor, m2: torch.Tensor, counts: torch.Tensor
) -> tuple[float, int]:
    total, number = pairs.cdnv_sum(mean.to(device), m2.to(device), counts.to(device))
    assert total.dtype == torch.float64 and number.dtype == torch.int64
    return float(total), int(number)


@pytest.mark.parametrize(
    ("c", "d", "offset", "scale"),
    [(1, 3, 0, 1), (2, 1, 0, 1), (7, 40, 0, 1e-30), (70, 33, 1e4, 1), (150, 20, 0, 1e20)],
)
def test_cdnv(c: int, d: int, offset: float, scale: float, device: torch.device) -> None:
    args = moments(c, d, offset=offset, scale=scale)
    expected, number = want_cdnv(*args)
    got = run(device, *args)
    assert got[1] == number
    # A distance keeps 2^-20 of its terms, and at least LOST of them is left.
    np.testing.assert_allclose(got[0], expected, rtol=2.0**-20 / pairs.LOST)


@pytest.mark.parametrize("gap", [1e-1, 1e-4, 1e-9])
def test_close_means_are_recomputed(gap: float, device: torch.device) -> None:
    """Pairs whose distance cancels entirely in fp32, in tiles on and off the diagonal."""
    mean, m2, counts = moments(140, 18)
    counts[[3, 5, 90, 139]] = 4
    m2[[3, 5, 90, 139]] = 2.0
    mean[5] = mean[3] + gap * torch.randn(18, dtype=torch.float64)
    mean[139] = mean[90] + gap * torch.randn(18, dtype=torch.float64)
    mean[90, 0] += 1e-3
    expected, number = want_cdnv(mean, m2, counts)
    got = run(device, mean, m2, counts)
    assert got[1] == number
    np.testing.assert_allclose(got[0], expected, rtol=2.0**-20 / pairs.LOST)


def test_a_cluster_of_tight_classes_far_from_the_rest(device: torch.device) -> None:
    mean, m2, counts = moments(70, 12)
    mean[10:60] = 1e3 + 1e-3 * mean[10:60]
    mean[counts == 0] = 0.0
    np.testing.assert_allclose(
        run(device, mean, m2, counts)[0], want_cdnv(mean, m2, counts)[0], 2e-5
    )


def test_equal_means_and_poisoned_classes(device: torch.device) -> None:
    mean, m2, counts = moments(9, 5)
    counts[:], m2[:] = 2, 1.0
    mean[4] = mean[1]
    assert run(device, mean, m2, counts)[0] == np.inf
    m2[[1, 4]] = 0.0
    assert np.isnan(run(device, mean, m2, counts)[0])
    mean, m2, counts = moments(9, 5)
    mean[0] = m2[0] = torch.nan
    assert np.isnan(run(device, mean, m2, counts)[0])
    nothing = run(device, mean, m2, torch.zeros_like(counts))
    assert nothing == (0.0, 0)


@pytest.mark.parametrize(("c", "d", "offset"), [(2, 3, 0), (9, 70, 1e4), (140, 20, 0)])
def test_cosines(c: int, d: int, offset: float, device: torch.device) -> None:
    mean, _, counts = moments(c, d, offset=offset)
    expected, wanted = want_cosines(mean, counts)
    total, number = pairs.cosine_gap_sum(mean.to(device), counts.to(device))
    assert int(number) == wanted
    np.testing.assert_allclose(float(total), expected, rtol=0, atol=wanted * 2.0**-20)


def test_bits_repeat(device: torch.device) -> None:
    args = moments(100, 9)
    assert run(device, *args) == run(device, *args)


@pytest.mark.device_only
def test_does_not_wait_and_can_be_captured() -> None:
    args = [t.cuda() for t in moments(600, 256)]
    pairs.cdnv_sum(*args)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager, _ = pairs.cdnv_sum(*args)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, _ = pairs.cdnv_sum(*args)
    graph.replay()
    assert float(captured) == float(eager)


def test_public_cdnv(device: torch.device) -> None:
    g = torch.Generator().manual_seed(3)
    labels = torch.arange(90) % 6
    z = torch.randn(6, 20, generator=g)[labels] + torch.randn(90, 20, generator=g)
    m = ssk.class_moments(z, labels, 7).to(device)
    with ssk.use_backend("torch"):
        expected = ssk.cdnv(m)
    with ssk.use_backend("triton"):
        np.testing.assert_allclose(ssk.cdnv(m).cpu(), expected.cpu(), rtol=2e-5)
        np.testing.assert_allclose(ssk.cdnv(m, convention="sum").cpu(), 2 * expected.cpu(), 2e-5)
