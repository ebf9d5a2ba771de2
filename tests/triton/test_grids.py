"""Sizes that a launch must refuse or spread otherwise: read off the launches, which do not run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from sslkernels.backends import triton as passes
from sslkernels.backends.triton import INTERPRETED
from sslkernels.backends.triton.core import launch
from sslkernels.passes.vicreg import VICRegSettings

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="a device runs what is launched")


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """Kernels launched and on which grids; nothing runs."""
    from triton.runtime.interpreter import GridExecutor

    seen = []

    def record(executor: Any, *args: Any, **kwargs: Any) -> None:
        seen.append((executor.fn.__name__, tuple(executor.grid)))

    monkeypatch.setattr(GridExecutor, "__call__", record)
    return seen


def check(grids: list[tuple[str, tuple[int, ...]]]) -> None:
    assert grids
    for name, grid in grids:
        assert grid[0] < 2**31 and all(count <= launch.GRID for count in grid[1:]), (name, grid)


@pytest.mark.parametrize("covariance", [True, False])
def test_many_problems_of_vicreg(covariance, grids) -> None:
    x, y = torch.zeros(2, 70_001, 2, 3)
    settings = VICRegSettings(covariance=covariance)
    terms, *saved = passes.vicreg_forward(x, y, settings)
    passes.vicreg_backward(terms, x, y, *saved, settings, True, True)
    check(grids)


@pytest.mark.parametrize("shape", [(2, 4_200_000), (4_200_000, 2)])
def test_long_views_of_barlow_twins(shape, grids) -> None:
    x = torch.zeros(shape, dtype=torch.bfloat16)
    terms, *saved = passes.barlow_twins_forward(x, x, 0.1, 1e-5)
    passes.barlow_twins_backward(terms, x, x, *saved, 0.1, True, True)
    check(grids)


def test_many_rows(grids) -> None:
    z = torch.zeros(1, 1, dtype=torch.bfloat16).expand(40_000_000, 1)
    passes.unit_moments_forward(z)
    check(grids)


@pytest.mark.parametrize("name", ["barlow_twins", "nt_xent", "vicreg", "cdnv_sum"])
@pytest.mark.parametrize("at", [0, 1])
def test_offsets_within_a_tile_fit_32_bits(name, at) -> None:
    """128 rows of a copy of both views, transposed: the longest that are counted in 32 bits."""
    shape = [4, 4]
    shape[at] = 1 << 23
    z = torch.zeros(1).expand(shape)
    assert passes.cannot(name, z) is None
    shape[at] += 1
    reason = passes.cannot(name, torch.zeros(1).expand(shape))
    assert reason == f"expected at most 8388608 rows and columns, got shape {shape}"
    assert passes.cannot(name, torch.zeros(1).expand(shape[0], 3, shape[1])) is not None


def test_rows_of_sigreg_are_counted_in_64_bits() -> None:
    assert passes.cannot("sigreg", torch.zeros(1).expand(1 << 26, 4)) is None
    assert "at most 8388608 columns" in passes.cannot("sigreg", torch.zeros(1).expand(4, 1 << 26))
