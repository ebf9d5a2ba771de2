"""VICReg on the CPU however its work is cut: empty parts, a short last slab, one column in the last
chunk, one row more than a block."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from sslkernels.backends import torch as plain
from sslkernels.ops.vicreg import VICRegSettings, wide
from tests.isa import WIDTHS

_BLOCK = 96  # side of a block of a product


@st.composite
def sizes(draw):
    near = st.sampled_from((16, 32, _BLOCK, 2 * _BLOCK)).flatmap(
        lambda edge: st.integers(edge - 1, edge + 1)
    )
    n, d = draw(st.integers(2, 40) | near), draw(st.integers(1, 40) | near)
    if draw(st.booleans()):
        d = draw(st.integers(n, 700))
    return n, d


@st.composite
def cuts(draw, contraction):
    return {
        "columns": 32 * draw(st.integers(1, 8)),
        "slab": draw(st.integers(1, contraction)),
        "parts": draw(st.integers(1, 48)),
    }


@pytest.mark.parametrize("isa", WIDTHS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_forward_is_the_same_however_it_is_cut(isa, data):
    n, d = data.draw(sizes())
    views = data.draw(st.integers(1, 2))
    options = VICRegSettings(1.0, 1.0, 1.0, 1.0, 1e-4)
    plan = data.draw(cuts(d if wide(n, d) else n))
    g = torch.Generator().manual_seed(n * d)
    x, y = (torch.randn(1, n, d, generator=g, dtype=torch.float64) for _ in range(2))
    second = y if views == 2 else None
    if views == 1:
        options = options._replace(invariance=False)
    wanted = plain.vicreg_forward(x, second, options)
    cpu._C.set_isa_limit(isa)
    try:
        got = cpu.vicreg_forward(x, second, options, plan)
    finally:
        cpu._C.set_isa_limit(cpu._C.detected_isa())
    for name, ours, theirs in zip(("terms", "mean", "var", "gram"), got, wanted, strict=True):
        # float64 sums of at most 700 terms of size 1, in another order
        torch.testing.assert_close(
            ours, theirs, rtol=1e-12, atol=1e-11, msg=lambda m, k=name: f"{k}: {m}"
        )


def test_cuts_that_nothing_has_or_no_kernel_can_take_are_errors():
    x = torch.randn(1, 8, 40)
    options = VICRegSettings(variance=False, invariance=False)
    with pytest.raises(ValueError, match="cuts: slabs: nothing of that name is cut"):
        cpu.vicreg_forward(x, None, options, {"slabs": 3})
    with pytest.raises(
        ValueError, match=r"cuts: columns: expected a multiple of 32 in \[32, 256\]"
    ):
        cpu.vicreg_forward(x, None, options, {"columns": 33})


def test_one_view_has_no_invariance():
    x = torch.randn(1, 8, 40, dtype=torch.float64)
    options = VICRegSettings(1.0, 1.0, 1.0)
    terms = cpu.vicreg_forward(x, None, options)[0]
    torch.testing.assert_close(terms, plain.vicreg_forward(x, None, options)[0])
    assert terms[1] == 0
