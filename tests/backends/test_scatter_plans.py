"""The pooled scatter on the CPU however it is cut: a short last slab, parts with nothing to do, one
row or column more than a block."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from tests.backends.statistics_plans import OTHER_DTYPES, lanes, near, on_any_threads
from tests.inputs import LAYOUTS, lay_out
from tests.isa import WIDTHS


@st.composite
def cuts(draw, rows):
    return {
        "slab": draw(st.integers(1, rows)),
        "parts": draw(st.integers(1, 16)),
        "pack_rows": draw(st.integers(1, 70)),
    }


def check(isa, dtype, data):
    n, d, c = data.draw(lanes), data.draw(lanes | near(256)), data.draw(st.integers(1, 5))
    plan = data.draw(cuts(n))
    g = torch.Generator().manual_seed(n * d)
    centers = torch.randn(c, d, generator=g, dtype=torch.float64)
    classes = torch.randint(-1, c, (n,), generator=g)
    classes[0] = 0
    z = torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype)
    z = lay_out(z, data.draw(st.sampled_from(LAYOUTS)))

    def run(given):
        upper = torch.full((d, d), torch.nan, dtype=torch.float64).tril(-1)  # zeros, NaN below
        cpu.scatter_update(z, classes, centers, upper, given)
        return [upper]

    (got,) = on_any_threads(isa, run, plan, data.draw(st.integers(1, 5)))
    x = (z.double() - centers[classes])[classes >= 0].numpy()
    below = np.tril(np.ones((d, d), dtype=bool), -1)
    np.testing.assert_array_equal(got.isnan(), below)
    error = np.abs(got.numpy() - x.T @ x)[~below]
    room = (n + 16) * np.finfo(np.float64).eps  # both sums are of n products
    assert (error <= 2 * room * (np.abs(x).T @ np.abs(x))[~below]).all()


@pytest.mark.parametrize("isa", WIDTHS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_same_however_it_is_cut(isa, data):
    check(isa, torch.float64, data)


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
@settings(max_examples=15, deadline=None)
@given(isa=st.sampled_from(WIDTHS), data=st.data())
def test_other_dtypes(dtype, isa, data):
    check(isa, dtype, data)
