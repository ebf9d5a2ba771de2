"""Barlow Twins on the CPU however its work is cut: empty parts, one column in the last chunk, one
lane in the last span, one row more than a block."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from sslkernels.backends import torch as plain
from sslkernels.numerics.views import result_dtype, wide
from tests.backends.plans import (
    BLOCK,
    OTHER_DTYPES,
    assert_within,
    contractions,
    isas,
    lanes,
    on_any_threads,
)
from tests.isa import WIDTHS
from tests.losses.common import make_view

LAMBDA, EPS = 0.3, 1e-5


def check(isa, dtype, data):
    n, d = data.draw(lanes.filter(lambda rows: rows > 1)), data.draw(contractions)
    if data.draw(st.booleans()):
        n, d = max(d, 2), n
    forward_cuts = {
        "columns": 32 * data.draw(st.integers(1, 8)),
        "parts": data.draw(st.integers(1, 32)),
    }
    backward_cuts = {
        "span": data.draw(st.integers(1, BLOCK)),
        "columns": data.draw(st.integers(1, 256)),
    }
    threads = data.draw(st.integers(1, 5))
    need_x, need_y = data.draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    x, y = (make_view(n, d, seed, dtype=dtype, shared=0.5) for seed in (0, 1))
    exact = [z.double() for z in (x, y)]
    terms, columns, gram = plain.barlow_twins_forward(*exact, LAMBDA, EPS)
    means, factors, c = columns[:2], columns[2:4], columns[4]
    # A normalized number is off by at most kappa (n + 16) (its size + 1) roundings.
    sizes = [
        ((z - mean) * factor).abs() + 1
        for z, mean, factor in zip(exact, means, factors, strict=True)
    ]
    kappa = max(
        1.0, *(float((z.abs().amax(0) * f).max()) for z, f in zip(exact, factors, strict=True))
    )
    kinds = [u @ u.T for u in sizes] if wide(n, d) else [sizes[0].T @ sizes[1] / n]
    diagonal = (sizes[0] * sizes[1]).mean(0)
    square = (kinds[0] * kinds[-1]).sum() / (n * n if wide(n, d) else 1) + diagonal.square().sum()

    got = on_any_threads(
        isa,
        lambda cuts: cpu.barlow_twins_forward(x, y, LAMBDA, EPS, cuts),
        forward_cuts,
        threads,
    )
    assert_within(got[0], terms, kappa**2 * square, n + d + kinds[0].numel(), dtype)
    assert_within(got[1][:2], means, torch.stack(exact).abs().amax(), n, dtype)
    assert_within(got[1][2:4], factors, kappa * factors, n, dtype)
    assert_within(got[1][4], c, kappa * diagonal, n, dtype)
    assert_within(got[2], gram, kappa * torch.stack(kinds), n + d, dtype)

    grad = torch.tensor([0.7, -0.4, 1.3], dtype=torch.float64)
    needs = (need_x, need_y)
    wanted = plain.barlow_twins_backward(grad, *exact, columns, gram, LAMBDA, *needs)
    saved = (columns, gram.to(result_dtype(dtype)))
    results = on_any_threads(
        isa,
        lambda cuts: [
            g
            for g in cpu.barlow_twins_backward(grad, x, y, *saved, LAMBDA, *needs, cuts)
            if g is not None
        ],
        backward_cuts,
        threads,
    )
    on, off = float(grad[0] + grad[1]), float(grad[0]) * LAMBDA + float(grad[2])
    beta = 2 / n * (abs(on) * (c - 1).abs() + abs(off) * c.abs())
    for v, result in zip((v for v in (0, 1) if needs[v]), results, strict=True):
        own, other = sizes[v], sizes[1 - v]
        if wide(n, d):
            on_unit = abs(2 * off / n**2) * (kinds[1 - v] @ own)
        else:
            on_unit = abs(2 * off / n) * (other @ (kinds[0].T if v == 0 else kinds[0]))
        on_unit = on_unit + other * beta
        magnitude = kappa * factors[v] * (on_unit + own * (on_unit * own).mean(0))
        assert_within(result, wanted[v], magnitude, n + d, dtype)


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


def test_cuts_that_nothing_has_are_errors():
    x = torch.randn(8, 40)
    with pytest.raises(ValueError, match="cuts: span: nothing of that name is cut"):
        cpu.barlow_twins_forward(x, x, LAMBDA, EPS, {"span": 3})
    _, *saved = cpu.barlow_twins_forward(x, x, LAMBDA, EPS)
    with pytest.raises(ValueError, match="cuts: parts: nothing of that name is cut"):
        cpu.barlow_twins_backward(torch.ones(3), x, x, *saved, LAMBDA, True, True, {"parts": 3})
