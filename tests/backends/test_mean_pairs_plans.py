"""Sums over pairs of class means on the CPU however blocks are gone through: one class in the last,
more blocks than are taken together.

No product of these means rounds, in float32 either: one pair left out of thousands shows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends.cpu import mean_pairs as cpu
from tests.backends.statistics_plans import near, on_any_threads
from tests.class_means import want_cdnv, want_cosines
from tests.isa import WIDTHS


def whole_numbers(c, d, close, g):
    """Rows and their opposites, the first few close to each other."""
    half = torch.randint(-200, 201, (c // 2, d), generator=g)
    half[:close] = half[0] + torch.randint(-3, 4, (len(half[:close]), d), generator=g)
    return torch.cat([half, -half, torch.zeros(c % 2, d)]).double()


def of_length_two(c, d, g):
    """Four ones in every row, of either sign; the rows add up to zero."""
    rows = []
    if c % 2:
        rows = [[1, 1, -1, -1, 0, 0], [0, 0, 1, 1, -1, -1], [-1, -1, 0, 0, 1, 1]]
        rows = [torch.nn.functional.pad(torch.tensor(row), (0, d - 6)) for row in rows]
    for _ in range((c - len(rows)) // 2):
        row = torch.zeros(d, dtype=torch.int64)
        row[torch.randperm(d, generator=g)[:4]] = torch.randint(0, 2, (4,), generator=g) * 2 - 1
        rows += [row, -row]
    return torch.stack(rows).double()


def among_empty_classes(mean, g):
    """The means at random places of a table, whose other rows hold anything; M2 and counts."""
    c, d = mean.shape
    filled = torch.randperm(c + 3, generator=g)[:c]
    table = torch.full((c + 3, d), torch.nan, dtype=torch.float64)
    m2, counts = torch.zeros(c + 3, dtype=torch.float64), torch.zeros(c + 3, dtype=torch.int64)
    table[filled], counts[filled] = mean, torch.randint(1, 9, (c,), generator=g)
    m2[filled] = torch.rand(c, generator=g, dtype=torch.float64) * counts[filled]
    return table, m2, counts


@pytest.mark.parametrize("isa", WIDTHS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_same_however_it_is_cut(isa, data):
    c = data.draw(st.integers(3, 40) | near(96, 192))
    d = data.draw(st.integers(6, 40) | near(32, 96, 256, 384))
    few = data.draw(st.sampled_from([0, c - 1, c]))
    cuts, threads = (
        {"few": few, "super": data.draw(st.integers(1, 4))},
        data.draw(st.integers(1, 5)),
    )
    g = torch.Generator().manual_seed(c * d)

    table = among_empty_classes(whole_numbers(c, d, data.draw(st.sampled_from([0, 2, c])), g), g)
    total, pairs = on_any_threads(isa, lambda given: cpu.cdnv_sum(*table, given), cuts, threads)
    want, number = want_cdnv(*table)
    rounding = (number + 16) * np.finfo(np.float64).eps
    assert int(pairs) == number
    np.testing.assert_allclose(float(total), want, rtol=rounding)

    mean, _, counts = among_empty_classes(of_length_two(c, d, g), g)
    total, _ = on_any_threads(
        isa, lambda given: cpu.cosine_gap_sum(mean, counts, given), cuts, threads
    )
    np.testing.assert_allclose(float(total), want_cosines(mean, counts)[0], rtol=rounding)
