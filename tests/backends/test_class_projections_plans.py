"""Projections on the lines between centers, on the CPU however rows are cut into blocks: the same
bits, and the plain answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from tests.backends.class_projections_checks import LEVELS, Answer, Plain, of
from tests.backends.statistics_plans import OTHER_DTYPES, assert_same, near, on_any_threads
from tests.inputs import labelled
from tests.losses.common import limited_to


def check(level, dtype, data):
    n = data.draw(st.integers(1, 40) | near(16, 32, 96, 192))
    d = data.draw(st.integers(1, 40) | near(16, 64, 128, 256))
    c = data.draw(st.integers(2, 20) | near(16, 32, 96))
    p = of(labelled(n, d, c, seed=n + d, dtype=dtype, separation=0.5, ignored=0.1))
    directional, int16 = data.draw(st.booleans()), data.draw(st.integers(0, 1))
    if not torch.isfinite(p.centers).all(1).any():
        return  # nothing to cut
    cuts = {
        "int16": int16,
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
        assert_same(got, cpu.class_projections_forward(*p, directional, None, {"int16": int16}))
    if directional:
        narrow = int16 and level == "avx512bf16" and dtype != torch.float64
        Plain(p).assert_holds(Answer(*got), "int16" if narrow else "cpu", level)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_same_however_it_is_cut(level, data):
    check(level, torch.float64, data)


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
@settings(max_examples=25, deadline=None)
@given(level=st.sampled_from(LEVELS), data=st.data())
def test_other_dtypes(dtype, level, data):
    check(level, dtype, data)
