"""Class moments on the device (or interpreted) against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from sslkernels.backends.triton.class_moments import tiles
from sslkernels.backends.triton.class_moments import update as passes
from tests.inputs import lay_out
from tests.triton.class_cases import DTYPES

IGNORE = -100


def empty(classes: list[int], d: int, device: torch.device) -> list[passes.State]:
    return [
        (
            torch.zeros(c, dtype=torch.int64, device=device),
            torch.zeros(c, d, dtype=torch.float64, device=device),
            torch.zeros(c, dtype=torch.float64, device=device),
        )
        for c in classes
    ]


def check(
    z: torch.Tensor, labels: torch.Tensor, states: list[passes.State], ignore: int = IGNORE
) -> None:
    """Every state against float64 sums over the rows of each class."""
    x = z.double().cpu().numpy()
    for own, state in zip(labels.cpu().numpy(), states, strict=True):
        counts, mean, m2 = (t.cpu().numpy() for t in state)
        for c in range(len(counts)):
            rows = x[own == c] if c != ignore else x[:0]
            assert counts[c] == len(rows)
            if not len(rows):
                assert m2[c] == 0.0 and not mean[c].any()
                continue
            expected = rows.mean(0)
            spread = np.abs(rows - expected).max()
            # dev is an fp32 sum of differences: 2^-24 of the spread per addition.
            np.testing.assert_allclose(mean[c], expected, rtol=1e-14, atol=4e-7 * spread)
            np.testing.assert_allclose(m2[c], ((rows - expected) ** 2).sum(), rtol=2e-6)


def make(
    n: int, d: int, classes: list[int], dtype: torch.dtype, offset: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(n * 31 + d)
    z = (torch.randn(n, d, generator=g, dtype=torch.float64) + offset).to(dtype)
    labels = torch.stack([torch.randint(c, (n,), generator=g) for c in classes])
    return z, labels.masked_fill(torch.rand(labels.shape, generator=g) < 0.1, IGNORE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n", "d", "classes", "layout"),
    [
        (1, 3, [2], "contiguous"),
        (150, 40, [5, 90], "contiguous"),
        (70, 200, [3], "padded"),
        (40, 9, [4, 1, 7], "transposed"),
        (33, 16, [2], "sliced"),
    ],
)
def test_matches_float64(
    n: int, d: int, classes: list[int], layout: str, dtype: torch.dtype, device: torch.device
) -> None:
    z, labels = make(n, d, classes, dtype)
    z, labels = lay_out(z, layout).to(device), labels.to(device)
    states = empty(classes, d, device)
    report = passes.class_moments_update(z, labels, states, IGNORE)
    assert report.tolist() == [[-1, 0]] * len(classes)
    check(z, labels, states)


@pytest.mark.parametrize("block_tiles", [1, 2, 8])
def test_blocks_shared_through_l2(block_tiles: int, device: torch.device) -> None:
    """Keys by (block, label), slices outermost: the same moments from any number of blocks."""
    classes, d = [3, 20], 160
    z, labels = make(200, d, classes, torch.float32)
    z, labels = z.to(device), labels.to(device)
    states = empty(classes, d, device)
    tile = tiles.choose(200, 128, classes, z.dtype)._replace(block_tiles=block_tiles)
    passes.class_moments_update(z, labels, states, IGNORE, tile)
    check(z, labels, states)


def test_updates_add_up(device: torch.device) -> None:
    """Batch by batch into one state; the first batch is one far outlier of each class."""
    classes, d = [2, 5], 20
    z, labels = make(121, d, classes, torch.float32)
    labels[:, 0] = 0
    z[0] += 1e4
    states = empty(classes, d, device)
    z, labels = z.to(device), labels.to(device)
    for part in (slice(0, 1), slice(1, 40), slice(40, 121)):
        passes.class_moments_update(z[part], labels[:, part].contiguous(), states, IGNORE)
    check(z, labels, states)


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_common_offset_costs_no_digits(offset: float, device: torch.device) -> None:
    z, labels = make(150, 24, [4], torch.float32, offset)
    z, labels = z.to(device), labels.to(device)
    states = empty([4], 24, device)
    passes.class_moments_update(z, labels, states, IGNORE)
    check(z, labels, states)


def test_one_class_with_every_row(device: torch.device) -> None:
    z, labels = make(700, 8, [1], torch.bfloat16)
    labels = torch.zeros_like(labels).to(device)
    z = z.to(device)
    states = empty([1], 8, device)
    passes.class_moments_update(z, labels, states, IGNORE)
    check(z, labels, states)


def test_more_classes_than_rows(device: torch.device) -> None:
    z, _ = make(50, 6, [1], torch.float32)
    labels = (torch.arange(50) * 1999).unsqueeze(0)
    states = empty([100_000], 6, device)
    passes.class_moments_update(z.to(device), labels.to(device), states, IGNORE)
    counts, mean, m2 = (t.cpu() for t in states[0])
    assert counts.nonzero().flatten().tolist() == labels[0].tolist()
    assert torch.equal(mean[labels[0]], z.double()) and not m2.any()


def test_bad_labels_are_reported_and_left_out(device: torch.device) -> None:
    z, labels = make(60, 5, [4, 6], torch.float32)
    bad = labels.clone()
    bad[1, 17], bad[1, 40] = 6, -(2**40)
    clean = bad.clone()
    clean[1, [17, 40]] = IGNORE
    z = z.to(device)
    states, expected = empty([4, 6], 5, device), empty([4, 6], 5, device)
    report = passes.class_moments_update(z, bad.to(device), states, IGNORE)
    passes.class_moments_update(z, clean.to(device), expected, IGNORE)
    assert report.tolist() == [[-1, 0], [17, 6]]
    for a, b in zip(states, expected, strict=True):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def test_ignore_index_may_be_a_class(device: torch.device) -> None:
    z, labels = make(30, 5, [3], torch.float32)
    states = empty([3], 5, device)
    labels[labels == IGNORE] = 1
    passes.class_moments_update(z.to(device), labels.to(device), states, 1)
    check(z, labels, states, ignore=1)


def test_rows_that_are_not_finite_poison_their_class_only(device: torch.device) -> None:
    z, labels = make(40, 5, [3], torch.float32)
    labels[0, :3] = torch.tensor([0, 1, 2])
    z[0, 2] = torch.inf
    z[1, 1] = torch.nan
    states = empty([3], 5, device)
    passes.class_moments_update(z.to(device), labels.to(device), states, IGNORE)
    counts, mean, m2 = (t.cpu() for t in states[0])
    assert counts.tolist() == [(labels[0] == c).sum() for c in range(3)]
    assert m2.isnan().tolist() == [True, True, False]
    assert not mean[0, 2].isfinite() and mean[1, 1].isnan() and mean[2].isfinite().all()
    assert torch.allclose(mean[2], z[labels[0] == 2].double().mean(0), atol=1e-6)


def test_no_rows(device: torch.device) -> None:
    states = empty([3], 4, device)
    labels = torch.empty(1, 0, dtype=torch.int64, device=device)
    report = passes.class_moments_update(torch.empty(0, 4, device=device), labels, states, IGNORE)
    assert report.tolist() == [[-1, 0]] and not states[0][0].any()


def test_bits_repeat(device: torch.device) -> None:
    z, labels = make(150, 33, [4, 30], torch.bfloat16)
    runs = []
    for _ in range(2):
        runs.append(empty([4, 30], 33, device))
        passes.class_moments_update(z.to(device), labels.to(device), runs[-1], IGNORE)
    for a, b in zip(*runs, strict=True):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 5_000, 2_000_000])
@pytest.mark.parametrize("classes", [[10], [1000, 10], [100_000, 100_000, 3]])
def test_tiles_fit_together(n: int, classes: list[int], dtype: torch.dtype) -> None:
    tile = tiles.choose(n, 2048, classes, dtype)
    assert 1 <= tile.block_tiles <= -(-n // tile.rows)


@pytest.mark.device_only
def test_does_not_wait_and_can_be_captured() -> None:
    device = torch.device("cuda")
    z, labels = make(4096, 256, [10, 100], torch.bfloat16)
    z, labels = z.to(device), labels.to(device)
    warm, states = empty([10, 100], 256, device), empty([10, 100], 256, device)
    passes.class_moments_update(z, labels, warm, IGNORE)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        passes.class_moments_update(z, labels, warm, IGNORE)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        passes.class_moments_update(z, labels, states, IGNORE)
    for count, mean, m2 in states:
        for t in (count, mean, m2):
            t.zero_()
    graph.replay()
    check(z, labels, states)


@pytest.mark.device_only
def test_more_than_2_to_the_31_elements() -> None:
    n, d = (1 << 31) // 64 + 5, 64
    z = torch.zeros(n, d, dtype=torch.float16, device="cuda")
    z[-5:] = torch.arange(5, device="cuda", dtype=torch.float16).unsqueeze(1)
    labels = torch.zeros(1, n, dtype=torch.int64, device="cuda")
    labels[0, -5:] = 1
    states = empty([2], d, z.device)
    passes.class_moments_update(z, labels, states, IGNORE)
    counts, mean, m2 = (t.cpu() for t in states[0])
    assert counts.tolist() == [n - 5, 5]
    assert not mean[0].any() and torch.equal(mean[1], torch.full((d,), 2.0, dtype=torch.float64))
    assert m2.tolist() == [0.0, 10.0 * d]
