"""Nearest centers on the device (or interpreted): the float64 argmin, whatever the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import sslkernels as ssk
from sslkernels.backends.triton.core import launch
from sslkernels.backends.triton.nearest_center import search as passes
from sslkernels.backends.triton.nearest_center import tiles
from sslkernels.backends.triton.nearest_center.table import (
    Found,
    Lists,
    Table,
    center_table,
    usable_centers,
)
from tests.inputs import lay_out
from tests.triton.class_cases import DTYPES, SHAPES, Shape


@pytest.fixture(autouse=True)
def filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems take the filter too."""
    monkeypatch.setattr(tiles, "SCAN", 0)


def distances(z: torch.Tensor, centers: torch.Tensor) -> np.ndarray:
    """[N, C] float64, infinite for centers that are not finite."""
    x, mu = z.double().cpu().numpy(), centers.double().cpu().numpy()
    with np.errstate(invalid="ignore"):
        d2 = np.stack([((x - m) ** 2).sum(1) for m in mu], axis=1)
    return np.where(np.isfinite(mu).all(1), d2, np.inf)


def check(z: torch.Tensor, centers: torch.Tensor, got: torch.Tensor) -> None:
    d2, usable = distances(z, centers), centers.isfinite().all(1).cpu().numpy()
    finite = z.isfinite().all(1).cpu().numpy() & usable.any()
    got = got.cpu().numpy()
    assert (got[~finite] == -1).all()
    d2, got = d2[finite], got[finite]
    assert usable[got].all()
    # Equal, unless two orders of summation in float64 may differ.
    expected = d2.argmin(1) if len(d2) else got
    rows = np.arange(len(d2))
    gap = d2[rows, got] - d2[rows, expected]
    tied = (gap <= 1e-14 * d2[rows, expected]) & (d2[rows, got] != d2[rows, expected])
    assert ((got == expected) | tied).all()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", (*SHAPES, Shape(1, 1, 1, "contiguous", 1.0)), ids=str)
def test_is_the_float64_argmin(shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
    centers = shape.separation * normal(shape.c, shape.d, seed=1)
    z = lay_out(normal(shape.n, shape.d).to(dtype), shape.layout).to(device)
    mu = (centers if dtype == torch.float32 else centers.float()).to(device)
    check(z, mu, passes.nearest_center_forward(z, mu, True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_near_ties(dtype: torch.dtype, device: torch.device) -> None:
    """Rows halfway between two centers, moved toward one by as little as their dtype can say; the
    centers moved by less still."""
    d, c = 33, 24
    z = (normal(40, d) * 8).round().to(dtype)
    centers = (normal(c, d, seed=2) * 8).round()
    for i in range(len(z)):
        a, b = i % c, (i * 7 + 1) % c
        z[i] = (0.5 * (centers[a] + centers[b])).to(dtype)
    centers += 1e-9 * normal(c, d, seed=3)
    centers[5] = centers[4]
    centers[20] = centers[4]  # 20 - 4: the same group of columns in the filter
    z, centers = z.to(device), centers.to(device)
    check(z, centers, passes.nearest_center_forward(z, centers, True))


@pytest.mark.parametrize(("dtype", "offset"), [(DTYPES[0], 1e6), (DTYPES[1], 50), (DTYPES[2], 500)])
def test_large_common_offset(dtype: torch.dtype, offset: float, device: torch.device) -> None:
    centers = normal(40, 20) + offset
    z = (centers[torch.arange(50) % 40] + normal(50, 20, seed=4)).to(dtype).to(device)
    centers = centers.to(device)
    check(z, centers, passes.nearest_center_forward(z, centers, True))


def test_float64_decides_only_what_fp32_cannot(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with several candidates get the right one although float64 would read NaN."""
    z, centers = normal(60, 130).bfloat16().to(device), 0.1 * normal(12, 130, seed=1).to(device)
    table_of, scan, listed = passes.center_table, passes._scan, []

    def poisoned(given: torch.Tensor, *args: Any) -> Table:
        table = table_of(given, *args)
        given.fill_(torch.nan)
        return table

    def counting(rows: torch.Tensor, mu: torch.Tensor, *args: Any) -> None:
        listed.append(args[1].counts.tolist())
        scan(rows, mu, *args)

    monkeypatch.setattr(passes, "center_table", poisoned)
    monkeypatch.setattr(passes, "_scan", counting)
    check(z, centers, passes.nearest_center_forward(z, centers.clone(), True))
    few, _, every = listed[0]
    assert few > 5 and every == 0


def test_every_center_is_the_same(device: torch.device) -> None:
    """Every center ties for every row: the list of candidates overflows twice."""
    z = normal(30, 12).float().to(device)
    centers = normal(1, 12, seed=5).expand(50, 12).contiguous().to(device)
    assert not passes.nearest_center_forward(z, centers, True).any()


def test_extreme_scales(device: torch.device) -> None:
    """Squares that overflow or vanish in fp32."""
    for scale in (1e-30, 1e25):
        z = (scale * normal(20, 9)).float().to(device)
        centers = (scale * normal(12, 9, seed=6)).float().to(device)
        check(z, centers, passes.nearest_center_forward(z, centers, True))


@pytest.mark.parametrize("exact", [True, False])
def test_rows_and_centers_that_are_not_finite(exact: bool, device: torch.device) -> None:
    z, centers = normal(40, 6).float(), 5 * normal(7, 6, seed=7)
    z[3, 1], z[8, 0] = torch.nan, -torch.inf
    z[20:] = centers[torch.arange(20) % 7].float()
    centers[0], centers[4, 2] = torch.nan, torch.inf
    z, centers = z.to(device), centers.to(device)
    got = passes.nearest_center_forward(z, centers, exact)
    if exact:
        check(z, centers, got)
    assert got[[3, 8]].tolist() == [-1, -1] and not (got == 0).any() and not (got == 4).any()
    nothing = torch.full_like(centers, torch.nan)
    assert (passes.nearest_center_forward(z, nothing, exact) == -1).all()
    assert (passes.nearest_center_forward(z, centers[:0], exact) == -1).all()
    assert passes.nearest_center_forward(z[:0], centers, exact).shape == (0,)


def test_rows_in_parts(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    monkeypatch.setattr(tiles, "WORKSPACE", 0)
    z, centers = normal(1100, 2).half().to(device), normal(5, 2, seed=8).to(device)
    check(z, centers, passes.nearest_center_forward(z, centers, True))


def test_small_problems_are_scanned(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    monkeypatch.setattr(tiles, "SCAN", 1 << 24)
    z, centers = normal(20, 70).bfloat16(), normal(40, 70, seed=9)
    z[2, 3], centers[1] = torch.inf, torch.nan
    z, centers = z.to(device), centers.to(device)
    for exact in (True, False):
        check(z, centers, passes.nearest_center_forward(z, centers, exact))


def test_public_calls(device: torch.device) -> None:
    """Twice: the first one imports the pass."""
    z, centers = normal(6, 5).float().to(device), normal(3, 5, seed=12).to(device)
    with ssk.use_backend("triton"):
        for _ in range(2):
            check(z, centers, ssk.ncc_predict(z, centers))


def test_fast_is_nearly_nearest(device: torch.device) -> None:
    z, centers = normal(50, 30).float().to(device), normal(60, 30, seed=10).to(device)
    d2 = distances(z, centers)
    got = passes.nearest_center_forward(z, centers, False).cpu().numpy()
    # bf16 operands: 2^-8 of ||x|| ||m|| each, on either side.
    slack = 4 * 2.0**-8 * np.linalg.norm(z.cpu(), axis=1) * 2 * d2.max() ** 0.5
    assert (d2[np.arange(50), got] <= d2.min(1) + slack).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bound_holds(dtype: torch.dtype, device: torch.device) -> None:
    """Every stored score lies within E of the exact one, up to what all scores of a row share."""
    n, d, c = 40, 70, 50
    z, centers = (normal(n, d) + 0.5).to(dtype).to(device), normal(c, d, seed=11).to(device)
    for split in (False, True):
        both, usable = tiles.tiles(n, dtype, launch.INTERPRETER), usable_centers(centers)
        table = center_table(centers, usable, usable.sum(), dtype, both.first.block_c)
        score, rest = torch.empty(n, 1, 4, device=device), torch.empty(n, 1, device=device)
        error = torch.empty(n, device=device)
        index = torch.empty_like(score, dtype=torch.int32)
        found = Found(score, index, rest, error, error)
        every = torch.arange(n, dtype=torch.int32, device=device)
        lists = Lists(every, every, every, torch.full_like(every[:3], n))
        passes._filter(z, table, lists, found, len(table.hi), split, both, launch.INTERPRETER)
        g = table.g.double()
        shifted = split or dtype == torch.float32
        exact = 0.5 * torch.as_tensor(distances(z, centers)).to(device)
        x = z.double() - g if shifted else z.double()
        base = 0.5 * x.square().sum(1, keepdim=True)
        if not shifted:  # ||m||^2 / 2 + g.m - x.m = ||x - mu||^2 / 2 - ||x - g||^2 / 2
            base = 0.5 * (x - g).square().sum(1, keepdim=True)
        wanted = (exact - base).gather(1, index.flatten(1).long())
        worst = (score.flatten(1).double() - wanted).abs() / error.double()[:, None]
        assert worst.max() <= 1.0
        assert error.max() < (1e-2 if split else 2.0)


@pytest.mark.device_only
def test_does_not_wait() -> None:
    z = normal(4096, 256).bfloat16().cuda()
    centers = normal(1000, 256).cuda()
    passes.nearest_center_forward(z, centers, True)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = passes.nearest_center_forward(z, centers, True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    check(z, centers, got)


@pytest.mark.device_only
def test_bits_repeat() -> None:
    z = normal(20_000, 512).bfloat16().cuda()
    centers = 0.03 * normal(2000, 512).cuda()
    runs = [passes.nearest_center_forward(z, centers, True) for _ in range(3)]
    assert all(torch.equal(runs[0], other) for other in runs)


@pytest.mark.device_only
def test_more_than_2_to_the_31_elements() -> None:
    n, d = (1 << 31) // 64 + 5, 64
    z = torch.zeros(n, d, dtype=torch.float16, device="cuda")
    z[-5:] = 2.0
    centers = torch.stack([torch.zeros(d), torch.full((d,), 1.5)]).cuda()
    got = passes.nearest_center_forward(z, centers, True)
    assert not got[:-5].any() and got[-5:].all()
