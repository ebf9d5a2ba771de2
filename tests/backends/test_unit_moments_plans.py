"""Moments of unit vectors on the CPU however the rows are cut: ranges of one row and of none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from tests.backends.statistics_plans import OTHER_DTYPES, lanes, near, on_any_threads
from tests.isa import WIDTHS


def check(isa, dtype, data):
    n, d = data.draw(lanes), data.draw(lanes | near(256))
    cuts = {"ranges": data.draw(st.integers(1, n + 3))}
    g = torch.Generator().manual_seed(n * d)
    z = torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype)
    z = z.T.contiguous().T if data.draw(st.booleans()) else z
    mean, m2 = on_any_threads(
        isa, lambda given: cpu.unit_moments_forward(z, given), cuts, data.draw(st.integers(1, 5))
    )
    x = z.double().numpy()
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    # Of n terms of 1 and of 4 at most, in float64 whatever the rows are, from d squares each.
    room = (n + d + 16) * np.finfo(np.float64).eps
    np.testing.assert_allclose(mean, u.mean(0), rtol=0, atol=2 * room)
    np.testing.assert_allclose(m2, ((u - u.mean(0)) ** 2).sum(0), rtol=0, atol=8 * n * room)


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
