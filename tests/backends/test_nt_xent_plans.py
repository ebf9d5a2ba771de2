"""NT-Xent on the CPU however its rows are grouped: an odd number of groups, one group, one row in
the last, and more threads than groups."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from sslkernels.backends import torch as plain
from tests.backends.plans import (
    BLOCK,
    OTHER_DTYPES,
    assert_within,
    isas,
    near,
    on_any_threads,
)
from tests.isa import WIDTHS
from tests.losses.common import make_view

half_blocks = near(*(BLOCK // 2 * k for k in range(1, 7)))  # of the 2N rows


def check(isa, dtype, data):
    n = data.draw(st.integers(1, 30) | half_blocks)
    d = data.draw(st.integers(1, 40) | near(128, 256))
    cuts = {"group": BLOCK * data.draw(st.integers(1, -(-2 * n // BLOCK)))}
    threads = data.draw(st.integers(1, 5))
    temperature = data.draw(st.sampled_from([0.1, 1.0]))
    x, y = (make_view(n, d, seed, dtype=dtype, shared=0.5) for seed in (0, 1))
    exact = x.double(), y.double()
    z = torch.cat(exact)
    norm = z.norm(dim=1, keepdim=True)
    u = z / norm
    size = 1 + 1 / temperature  # of logits, and of how far their errors reach

    terms, rows = plain.nt_xent_forward(*exact, temperature)
    got = on_any_threads(
        isa, lambda cuts: cpu.nt_xent_forward(x, y, temperature, cuts), cuts, threads
    )
    assert_within(got[0], terms, size + terms.abs(), d + 4 * n, dtype)
    assert_within(got[1], rows, size + rows.abs(), d + 2 * n, dtype)

    grad = torch.tensor([0.7, -0.4, 1.3], dtype=torch.float64)
    needs = data.draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    wanted = plain.nt_xent_backward(grad, *exact, rows, temperature, *needs)
    results = on_any_threads(
        isa,
        lambda cuts: [
            g
            for g in cpu.nt_xent_backward(grad, x, y, rows, temperature, *needs, cuts)
            if g is not None
        ],
        cuts,
        threads,
    )
    share = (u @ u.T / temperature - rows[0].unsqueeze(1)).exp()
    on_u = grad.abs().sum() * ((share + share.T) @ u.abs() + 2 * u.roll(n, 0).abs())
    magnitude = size * (on_u + (on_u * u.abs()).sum(1, keepdim=True)) / norm / (2 * n * temperature)
    for v, result in zip((v for v in (0, 1) if needs[v]), results, strict=True):
        assert_within(result, wanted[v], magnitude[v * n : (v + 1) * n], 2 * d + 2 * n, dtype)


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


def test_groups_are_whole_blocks():
    x = torch.randn(70, 5)
    for group in (48, 97, 3 * BLOCK):
        with pytest.raises(
            ValueError, match=r"cuts: group: expected a multiple of 96 in \[96, 192\]"
        ):
            cpu.nt_xent_forward(x, x, 0.5, {"group": group})
