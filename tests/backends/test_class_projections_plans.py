"""Projections on the lines between centers, on the CPU however rows are cut into blocks: the same
bits, and the plain answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from tests.backends.class_projections_checks import Answer, Plain, of
from tests.backends.statistics_plans import OTHER_DTYPES, assert_same, near, on_any_threads
from tests.inputs import labelled
from tests.isa import WIDTHS
from tests.losses.common import limited_to


def check(level, dtype, data):
    n = data.draw(st.integers(1, 40) | near(16, 32, 96, 192))
    d = data.draw(st.integers(1, 40) | near(16, 64, 128, 256))
    c = data.draw(st.integers(2, 20) | near(16, 32, 96))
    p = of(labelled(n, d, c, seed=n + d, dtype=dtype, separation=0.5, ignored=0.1))
    directional = data.draw(st.booleans())
    if not torch.isfinite(p.centers).all(1).any():
        return  # nothing to cut
    cuts = {
        "rows": data.draw(st.integers(1, n + 1)),
        "label_share": data.draw(st.integers(1, 20)),
        "label_block": data.draw(st.integers(1, 40)),
        "digit_bits": data.draw(st.integers(1, 4)),
    }
    got = on_any_threads(
        level,
        lambda given: cpu.class_projections_forward(*p, directional, None, given),
        cuts,
        data.draw(st.integers(1, 5)),
    )
    with limited_to(level):
        assert_same(got, cpu.class_projections_forward(*p, directional, None))
    if directional:
        Plain(p).assert_holds(Answer(*got), "cpu", level)


@pytest.mark.parametrize("level", WIDTHS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_same_however_it_is_cut(level, data):
    check(level, torch.float64, data)


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
@settings(max_examples=25, deadline=None)
@given(level=st.sampled_from(WIDTHS), data=st.data())
def test_other_dtypes(dtype, level, data):
    check(level, dtype, data)
