"""SIGReg on the CPU however its rows are cut: a last part, span or block of one row, and one slice
more than a block."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from sslkernels.backends import torch as plain
from sslkernels.passes.sigreg import SIGRegSettings
from tests.backends.plans import (
    BLOCK,
    OTHER_DTYPES,
    assert_within,
    isas,
    lanes,
    near,
    on_any_threads,
)
from tests.isa import WIDTHS
from tests.losses.common import make_view

_LANES = 16  # of the widest vector


def check(isa, dtype, data):
    n, num_slices = data.draw(lanes | st.integers(1, 300)), data.draw(lanes)
    d = data.draw(st.integers(1, 40) | near(128, 256))
    knots = data.draw(st.integers(2, 5))
    t_min = data.draw(st.sampled_from([0.0, 0.2]))
    part = _LANES * data.draw(st.integers(1, -(-n // BLOCK) * BLOCK // _LANES))
    span = _LANES * data.draw(st.integers(1, BLOCK // _LANES))
    threads = data.draw(st.integers(1, 5))
    options = SIGRegSettings(num_slices, knots, t_min, 3.0, 5)
    step = torch.tensor(7)
    z = make_view(n, d, 0, dtype=dtype)
    exact = z.double()
    # A projection's terms are at most |z| in all, and angles 3 times that.
    reach = 1 + 3 * float(exact.norm(dim=1).max())

    sums = plain.sigreg_forward(exact, step, options)
    (got,) = on_any_threads(
        isa, lambda cuts: [cpu.sigreg_forward(z, step, options, cuts)], {"part": part}, threads
    )
    assert_within(got, sums, n * reach, n + d + 4 * knots, dtype)

    grad = torch.randn(sums.shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    wanted = plain.sigreg_backward(grad, exact, step, options)
    (result,) = on_any_threads(
        isa,
        lambda cuts: [cpu.sigreg_backward(grad, z, step, options, cuts)],
        {"span": span},
        threads,
    )
    magnitude = 3 * grad.abs().sum((1, 2)) @ plain.sigreg._slices(options, exact, step).abs()
    assert_within(result, wanted, reach * magnitude, d + num_slices + 6 * knots, dtype)


@pytest.mark.parametrize("isa", WIDTHS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_same_however_it_is_cut(isa, data):
    check(isa, torch.float64, data)


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=lambda t: str(t)[6:])
@settings(max_examples=12, deadline=None)
@given(isa=isas, data=st.data())
def test_other_dtypes(dtype, isa, data):
    check(isa, dtype, data)


def test_parts_are_whole_vectors_and_spans_fit_a_block():
    z, step = torch.randn(70, 5), torch.tensor(0)
    options = SIGRegSettings(4, 3, 0.0, 3.0, 0)
    sums = torch.ones(4, 3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="cuts: part: expected a multiple of"):
        cpu.sigreg_forward(z, step, options, {"part": 17})
    with pytest.raises(ValueError, match="cuts: span: expected a multiple of"):
        cpu.sigreg_backward(sums, z, step, options, {"span": 2 * BLOCK})
