"""Nearest centers on the CPU however rows and centers are cut: one row in the last block, one
center in the last panel or chunk.

Distances are whole numbers and have ties, so there is one right answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from tests.backends.statistics_plans import OTHER_DTYPES, lanes, near, on_any_threads
from tests.inputs import LAYOUTS, lay_out
from tests.isa import DETECTED, WIDTHS
from tests.losses.common import limited_to

KERNELS = ("float64", *DETECTED)


def check(kernel, dtype, data):
    n = data.draw(st.integers(1, 40) | near(32, 64, 96, 160))
    d, c = data.draw(lanes | near(512)), data.draw(lanes | near(64, 128))
    g = torch.Generator().manual_seed(n * d * c)
    largest = data.draw(st.sampled_from([1, 100]))
    centers = torch.randint(-largest, largest + 1, (c, d), generator=g).float()
    centers[1 :: data.draw(st.sampled_from([2, 9]))] = torch.nan
    z = torch.randint(-largest, largest + 1, (n, d), generator=g).to(dtype)
    z[2::7, -1] = torch.inf
    z = lay_out(z, data.draw(st.sampled_from(LAYOUTS)))
    wide = data.draw(st.booleans())
    usable = centers[:, 0].isfinite()

    isa = DETECTED[-1] if kernel == "float64" else kernel
    how = {"float64": int(kernel == "float64"), "bf16": 1}
    cuts = {"chunks": data.draw(st.integers(1, int(usable.sum())))}
    if kernel != "float64":
        cuts = {"tiles": data.draw(st.integers(1, 6))}
        if dtype == torch.bfloat16 and kernel not in WIDTHS:
            cuts["raw"] = data.draw(st.integers(0, 1))

    def run(given, exact=True):
        mu = centers.double() if wide else centers
        return [cpu.nearest_center_forward(z, mu, exact, {**how, **given})]

    threads = data.draw(st.integers(1, 5))
    (got,) = on_any_threads(isa, run, cuts, threads)
    rows, mu = z.double().numpy(), centers.double().numpy()
    with np.errstate(invalid="ignore"):
        d2 = ((rows[:, None] - mu[None]) ** 2).sum(2)
    want = np.where(np.isnan(d2), np.inf, d2).argmin(1)
    want[~np.isfinite(rows).all(1)] = -1
    np.testing.assert_array_equal(got, want)
    if kernel != "float64" and "raw" not in cuts:  # whether one is near enough is not cut
        (fast,) = on_any_threads(isa, lambda given: run(given, False), cuts, threads)
        with limited_to(isa):
            assert torch.equal(fast, run({}, False)[0])


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_same_however_it_is_cut(kernel, data):
    check(kernel, torch.float64, data)


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
@settings(max_examples=20, deadline=None)
@given(kernel=st.sampled_from(KERNELS), data=st.data())
def test_other_dtypes(dtype, kernel, data):
    check(kernel, dtype, data)
