"""The statistics' kernels however their work is cut: blocks with one row in the last, stretches and
spans of any number, several turns in one workspace. Held to the torch backend, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from sslkernels.backends import torch as plain
from sslkernels.backends import triton as kernels
from sslkernels.backends.triton.class_moments import tiles as class_tiles
from sslkernels.backends.triton.class_projections import tiles as projection_tiles
from sslkernels.backends.triton.nearest_center import tiles as center_tiles
from sslkernels.backends.triton.product import tiles
from tests.triton import plans

IGNORE = -100
DEVICE = torch.device("cpu" if kernels.INTERPRETED else "cuda")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g).to(DEVICE)


def close(ours: Any, exact: Any, rtol: float) -> None:
    """To ``rtol`` of the largest of numbers of size 1."""
    for one, other in zip(ours, exact, strict=True):
        atol = rtol * max(1.0, float(other.abs().max())) if other.numel() else 0.0
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=atol)


@plans.few
@given(
    n=plans.sides(),
    d=plans.sides(),
    c=st.integers(1, 20),
    rows=st.sampled_from((16, 32)),
    block_tiles=st.integers(1, 4),
    narrow=st.booleans(),
)
def test_class_moments(n: int, d: int, c: int, rows: int, block_tiles: int, narrow: bool) -> None:
    z, g = normal(n, d), torch.Generator().manual_seed(n)
    labels = torch.randint(-1, c, (2, n), generator=g).to(DEVICE)
    labels[labels == -1] = IGNORE
    tile = class_tiles.Tile(rows, 4, 16 if narrow else 32, 1, block_tiles)
    states = []
    for pass_, how in ((kernels, (tile,)), (plain, ())):
        states.append([])
        for _ in labels:
            zeros = (torch.zeros(c, *more, dtype=torch.float64) for more in ((d,), ()))
            counts = torch.zeros(c, dtype=torch.int64)
            states[-1].append([t.to(DEVICE) for t in (counts, *zeros)])
        for _ in range(2):  # into an empty state, and into one that holds rows
            pass_.class_moments_update(z, labels, states[-1], IGNORE, *how)
    for ours, exact in zip(*states, strict=True):
        close(ours, exact, 2.0**-20)


@plans.few
@given(
    n=plans.sides(),
    d=plans.sides(),
    block=st.sampled_from((16, 32)),
    stretches=st.integers(1, 60),
)
def test_unit_moments(n: int, d: int, block: int, stretches: int) -> None:
    z = normal(n, d)
    ours = kernels.unit_moments_forward(z, tiles.Stream(block, 16, 4, 1), stretches)
    close(ours, plain.unit_moments_forward(z), 1e-13)


@plans.few
@given(c=plans.sides(), d=plans.sides(), cuts=plans.cuts())
def test_pairs_of_means(c: int, d: int, cuts: tiles.Cuts) -> None:
    mean, counts = normal(c, d).double(), torch.arange(c, device=DEVICE) % 5
    mean[c // 2] = mean[-1] + 1e-4  # a pair that fp32 cannot tell
    m2 = normal(c, seed=1).double().square() * counts
    known = (mean.where((counts > 0).unsqueeze(1), 0.0), m2, counts)
    total, pairs = kernels.cdnv_sum(*known, cuts)
    true, true_pairs = plain.cdnv_sum(*known)
    assert pairs == true_pairs
    torch.testing.assert_close(total, true, rtol=2.0**-14, atol=0, equal_nan=True)
    total, pairs = kernels.cosine_gap_sum(known[0], counts, cuts)
    true, true_pairs = plain.cosine_gap_sum(known[0], counts)
    assert pairs == true_pairs
    torch.testing.assert_close(
        total, true, rtol=0, atol=2.0**-18 * (1 + int(pairs)), equal_nan=True
    )


@plans.few
@given(
    n=plans.sides(),
    d=plans.sides(),
    c=plans.sides(3),
    columns=st.sampled_from((16, 32)),
    rows=st.integers(1, 40),
    spans=st.integers(1, 8),
    scan=st.sampled_from((0, 1000)),
)
def test_nearest_centers(
    n: int, d: int, c: int, columns: int, rows: int, spans: int, scan: int
) -> None:
    z, centers = normal(n, d), normal(c, d, seed=1)
    first = tiles.CenterTile(16, columns, 16, 4, 1)
    both = center_tiles.Tiles(first, first._replace(block_n=32, block_c=16))
    cuts = center_tiles.Cuts(both, spans, rows, scan)
    got = kernels.nearest_center_forward(z, centers, True, cuts)
    assert torch.equal(got, plain.nearest_center_forward(z, centers, True))


@plans.few
@given(
    n=plans.sides(),
    d=plans.sides(),
    c=plans.sides(),
    blocks=st.integers(1, 3),
    columns=st.sampled_from((16, 32)),
    whole=st.booleans(),
    directional=st.booleans(),
)
def test_class_projections(
    n: int, d: int, c: int, blocks: int, columns: int, whole: bool, directional: bool
) -> None:
    z, centers = normal(n, d), 0.3 * normal(c, d, seed=1).double()
    classes = torch.arange(n, device=DEVICE) * 7 % (c + 1) - 1
    counts = torch.full((c,), 3, device=DEVICE)
    tile = tiles.CenterTile(16, columns, 16, 4, 1)
    cuts = projection_tiles.Cuts(tile, 16 * blocks, whole)
    known = (z, classes, centers, counts, directional)
    rank, alone, spread = kernels.class_projections_forward(*known, cuts=cuts)
    wanted = plain.class_projections_forward(*known)
    assert torch.equal(rank, wanted[0]) and torch.equal(alone, wanted[1])
    torch.testing.assert_close(spread, wanted[2], rtol=1e-4, atol=1e-5)
