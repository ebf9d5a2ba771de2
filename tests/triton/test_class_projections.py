"""Rows against every class center on the device (or interpreted): float64's ranks, whatever the
rows, and directional sums to fp32's digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import sslkernels as ssk
from sslkernels.backends import torch as dense
from sslkernels.backends.triton.class_projections import project as projections
from sslkernels.backends.triton.class_projections import tiles
from sslkernels.backends.triton.product.tiles import CenterTile
from tests.inputs import lay_out
from tests.triton.class_cases import DTYPES, SHAPES, Shape


def twin(
    z: torch.Tensor,
    classes: torch.Tensor,
    centers: torch.Tensor,
    counts: torch.Tensor | None,
    directional: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The definition, row by row in float64 NumPy."""
    x, mu = z.double().cpu().numpy(), centers.cpu().numpy()
    own_class, n = classes.cpu().numpy(), None if counts is None else counts.cpu().numpy()
    usable = np.isfinite(mu).all(1)
    c = len(mu)
    rank = np.full(len(x), -1)
    alone = np.zeros(len(x), dtype=bool)
    spread = np.zeros(c)
    for i, y in enumerate(own_class):
        if y < 0:
            continue
        rank[i] = c
        if not usable[y]:
            continue
        if not np.isfinite(x[i]).all():
            spread[y] = np.nan
            continue
        d2 = ((x[i] - mu) ** 2).sum(1)
        d2[~usable] = np.inf
        others = usable & (np.arange(c) != y)
        before = np.arange(c) < y
        rank[i] = (others & ((d2 < d2[y]) | ((d2 == d2[y]) & before))).sum()
        if n is not None and n[y] != 1:
            without = d2[y] * (n[y] / (n[y] - 1)) ** 2
            alone[i] = not (others & ((d2 < without) | ((d2 == without) & before))).any()
        between = mu[others] - mu[y]
        with np.errstate(invalid="ignore"):
            spread[y] += ((between @ (x[i] - mu[y]) / (between**2).sum(1)) ** 2).sum()
    return rank, alone, spread if directional else np.zeros(c)


def check(
    z: torch.Tensor,
    classes: torch.Tensor,
    centers: torch.Tensor,
    counts: torch.Tensor | None,
    *,
    rtol: float = 1e-5,
) -> None:
    for directional in (True, False):
        got = projections.class_projections_forward(z, classes, centers, counts, directional)
        rank, alone, spread = twin(z, classes, centers, counts, directional)
        assert got[0].dtype == torch.int64 and got[1].dtype == torch.bool
        np.testing.assert_array_equal(got[0].cpu().numpy(), rank)
        np.testing.assert_array_equal(got[1].cpu().numpy(), alone)
        np.testing.assert_allclose(got[2].cpu().numpy(), spread, rtol=rtol)


def problem(
    n: int, d: int, c: int, dtype: torch.dtype, *, separation: float = 1.0, offset: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows with a few skipped ones, and their classes' own means and counts; class 1 is empty."""
    g = torch.Generator().manual_seed(n + d + c)
    classes = torch.randint(c, (n,), generator=g)
    classes[classes == 1] = 0
    true = separation * torch.randn(c, d, generator=g, dtype=torch.float64) + offset
    z = (true[classes] + torch.randn(n, d, generator=g, dtype=torch.float64)).to(dtype)
    counts = torch.bincount(classes, minlength=c)
    sums = torch.zeros(c, d, dtype=torch.float64).index_add_(0, classes, z.double())
    classes[::7] = -1
    return z, classes, sums / counts.unsqueeze(1), counts


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
    *sizes, layout, separation = shape
    z, classes, centers, counts = problem(*sizes, dtype, separation=separation)
    z = lay_out(z, layout).to(device)
    check(z, classes.to(device), centers.to(device), counts.to(device))


def test_without_counts_nothing_is_left_out(device: torch.device) -> None:
    z, classes, centers, _ = problem(40, 20, 8, torch.float32)
    check(z.to(device), classes.to(device), centers.to(device), None)


@pytest.mark.parametrize("whole", [True, False])
def test_by_parts(whole: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts of rows, with the table of all centers and with a table for each part."""
    monkeypatch.setattr(tiles, "WORKSPACE", (1, 1))
    tile = CenterTile(32, 32, 64, 4, 2)
    monkeypatch.setattr(tiles, "choose", lambda device: tile)
    monkeypatch.setattr(tiles, "TABLE", 1 << 20 if whole else 0)
    n, c = 40, 260  # nine column tiles: a wave is one row tile of the interpreter's device
    z, classes, centers, counts = problem(n, 20, c, torch.float32, separation=0.1)
    check(z.to(device), classes.to(device), centers.to(device), counts.to(device))


@pytest.mark.parametrize("directional", [True, False])
def test_agrees_with_the_torch_backend(directional: bool, device: torch.device) -> None:
    """Rows of one class are many, and most of them are mistaken for others."""
    inputs = [t.to(device) for t in problem(60, 24, 6, torch.bfloat16, separation=0.2)]
    got = projections.class_projections_forward(*inputs, directional)
    expected = dense.class_projections_forward(*inputs, directional)
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    torch.testing.assert_close(got[2], expected[2], rtol=1e-6, atol=0)


def test_repetition_gives_the_same_bits(device: torch.device) -> None:
    z, classes, centers, counts = (t.to(device) for t in problem(30, 33, 12, torch.bfloat16))
    first = projections.class_projections_forward(z, classes, centers, counts, True)
    second = projections.class_projections_forward(z, classes, centers, counts, True)
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(("dtype", "offset"), [(DTYPES[0], 1e5), (DTYPES[1], 50), (DTYPES[2], 500)])
def test_large_common_offset(dtype: torch.dtype, offset: float, device: torch.device) -> None:
    z, classes, centers, counts = problem(40, 20, 12, dtype, offset=offset)
    check(z.to(device), classes.to(device), centers.to(device), counts.to(device))


def test_ties_go_to_the_lowest_class(device: torch.device) -> None:
    """Rows halfway between centers, some of which are the same."""
    g = torch.Generator().manual_seed(0)
    centers = torch.randint(-8, 9, (12, 16), generator=g).double()
    centers[5] = centers[2]
    centers[9] = centers[2]
    first, second = torch.randint(12, (2, 40), generator=g)
    z = ((centers[first] + centers[second]) / 2).float()
    check(z.to(device), first.to(device), centers.to(device), torch.full((12,), 5, device=device))


def test_every_center_is_the_same(device: torch.device) -> None:
    z = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(20) % 4
    centers = z[:1].double().expand(4, 6).contiguous()
    check(z.to(device), classes.to(device), centers.to(device), torch.full((4,), 5, device=device))


def test_close_means(device: torch.device) -> None:
    """Pairs whose distance has lost its digits beside the other means."""
    z, classes, centers, counts = problem(40, 30, 10, torch.float32)
    centers[2:] = centers[2] + 1e-4 * torch.randn(
        8, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    check(z.to(device), classes.to(device), centers.to(device), counts.to(device))


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_extreme_scales(scale: float, device: torch.device) -> None:
    """Squares that overflow or vanish in fp32; rows that are far beyond all centers."""
    z, classes, centers, counts = problem(30, 9, 6, torch.float64)
    z[::5] *= 1e11
    z, centers = (z * scale).float(), centers * scale
    check(z.to(device), classes.to(device), centers.to(device), counts.to(device))


def test_rows_and_centers_that_are_not_finite(device: torch.device) -> None:
    z, classes, centers, counts = problem(40, 10, 9, torch.float32)
    z[3, 1], z[8, 0] = torch.nan, -torch.inf
    classes[3] = classes[8] = 4
    centers[5] = torch.nan
    centers[6, 2] = torch.inf
    check(z.to(device), classes.to(device), centers.to(device), counts.to(device))


def test_classes_of_one_row(device: torch.device) -> None:
    """Alone in its class, a row leaves an empty class; of two, one leaves the other's place."""
    z = torch.randn(21, 5, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(21) // 2
    counts = torch.bincount(classes)
    centers = torch.stack([z[classes == k].double().mean(0) for k in range(11)])
    check(z.to(device), classes.to(device), centers.to(device), counts.to(device))


def test_nothing_to_do(device: torch.device) -> None:
    centers = torch.full((3, 4), torch.nan, dtype=torch.float64, device=device)
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    for n in (0, 5):
        z = torch.zeros(n, 4, device=device)
        for label in (-1, 2):
            check(z, torch.full((n,), label, device=device), centers, counts)


def test_public_statistics(device: torch.device) -> None:
    z, classes, _, _ = problem(50, 20, 6, torch.float32)
    z, classes = z.to(device), classes.to(device)
    m = ssk.class_moments(z, classes, 6, ignore_index=-1)
    found = {}
    for backend in ("torch", "triton"):
        with ssk.use_backend(backend):
            scores = ssk.ncc_scores(z, classes, m, ignore_index=-1)
            found[backend] = [*scores, ssk.directional_cdnv(z, classes, m, ignore_index=-1)]
    for ours, expected in zip(found["triton"], found["torch"], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.device_only
@pytest.mark.parametrize("directional", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_does_not_wait_and_can_be_captured(
    directional: bool, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(tiles, "TABLE", 0)
    inputs = [t.cuda() for t in problem(20_000, 256, 300, torch.bfloat16, separation=0.1)]
    projections.class_projections_forward(*inputs, directional)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager = projections.class_projections_forward(*inputs, directional)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = projections.class_projections_forward(*inputs, directional)
    graph.replay()
    expected = dense.class_projections_forward(*inputs, directional)
    for one, two in zip(captured, eager, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(eager[0], expected[0]) and torch.equal(eager[1], expected[1])
    torch.testing.assert_close(eager[2], expected[2], rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.device_only
def test_more_than_2_to_the_31_elements() -> None:
    n, d = (1 << 31) // 64 + 5, 64
    z = torch.zeros(n, d, dtype=torch.float16, device="cuda")
    z[-5:] = 2.0
    classes = torch.zeros(n, dtype=torch.int64, device="cuda")
    classes[-5:] = 1
    centers = torch.stack([torch.zeros(d), torch.full((d,), 1.5)]).double().cuda()
    counts = torch.tensor([n - 5, 5], device="cuda")
    rank, alone, spread = projections.class_projections_forward(z, classes, centers, counts, True)
    assert not rank.any() and alone.all()
    np.testing.assert_allclose(spread.cpu().numpy(), [0.0, 5 / 9], rtol=1e-6)
