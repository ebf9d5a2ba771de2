"""VICReg on the CPU however its work is cut: empty parts, a short last slab, one column in the last
chunk, one lane in the last span, one row more than a block."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from sslkernels.backends import torch as plain
from sslkernels.numerics.views import result_dtype, wide
from sslkernels.passes.vicreg import VICRegSettings
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
from tests.losses.vicreg_cases import make_view

left_out = st.sampled_from(
    [{}, {}, {"covariance": False}, {"variance": False}, {"invariance": False}]
)


def check(isa, dtype, data):
    n, d = data.draw(lanes.filter(lambda rows: rows > 1)), data.draw(contractions)
    if data.draw(st.booleans()):
        n, d = max(d, 2), n
    options = VICRegSettings(1.0, 2.0, 0.5, 1.0, 1e-4)._replace(**data.draw(left_out))
    problems, views = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    forward_cuts = {
        "columns": 32 * data.draw(st.integers(1, 8)),
        "slab": data.draw(st.integers(1, d if wide(n, d) or not options.covariance else n)),
        "parts": data.draw(st.integers(1, 48)),
    }
    backward_cuts = {
        "span": data.draw(st.integers(1, BLOCK)),
        "rows": data.draw(st.integers(1, n)),
        "columns": data.draw(st.integers(1, 256)),
    }
    threads = data.draw(st.integers(1, 5))
    x, y = (make_view((n, problems, d), seed, dtype=dtype).transpose(0, 1) for seed in (0, 1))
    given_views = (x, y if views == 2 else None)
    exact = [None if z is None else z.double() for z in given_views]
    z = torch.stack([z for z in exact if z is not None])  # [V, P, N, D]

    terms, mean, var, gram = plain.vicreg_forward(*exact, options)
    got = on_any_threads(
        isa, lambda cuts: cpu.vicreg_forward(*given_views, options, cuts), forward_cuts, threads
    )
    # A centered number is off by at most n + 16 roundings of the largest of its column.
    size = (z - z.mean(2, keepdim=True)).abs() + z.abs().amax(2, keepdim=True)
    kind = size @ size.mT if wide(n, d) else size.mT @ size
    squares = size.square().sum(2) / (n - 1)
    sd = (z.var(2) + options.eps).sqrt()
    apart = z.abs().sum(0).square().mean() if views == 2 else 0.0
    spread = 1 + (squares / sd).mean()
    bands = (kind.square().sum() / (n - 1) ** 2 + squares.square().sum()) / (problems * d)
    magnitudes = torch.tensor([apart + 2 * spread + bands, apart, spread, bands])
    assert_within(got[0], terms, magnitudes, n * d + kind.numel(), dtype)
    if options.variance or options.covariance:
        assert_within(got[1], mean, z.abs().amax(2), n, dtype)
        assert_within(got[2], var, squares, n, dtype)
    if options.covariance:
        assert_within(got[3], gram, kind, n + d, dtype)

    grad = torch.tensor([0.7, -0.4, 1.3, 0.8], dtype=torch.float64)
    needs = data.draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    if views == 1:
        needs = (True, False)
    wanted = plain.vicreg_backward(grad, *exact, mean, var, gram, options, *needs)
    saved = (mean, var, gram.to(result_dtype(dtype)))
    results = on_any_threads(
        isa,
        lambda cuts: [
            g
            for g in cpu.vicreg_backward(grad, *given_views, *saved, options, *needs, cuts)
            if g is not None
        ],
        backward_cuts,
        threads,
    )
    upstream = 2 * float(grad.abs().sum()) / (problems * d)
    magnitude = upstream * 2 * z.abs().sum(0) / n
    magnitude = magnitude + upstream * size / (n - 1) / sd.unsqueeze(2)
    if options.covariance:
        product = gram.abs() @ size if wide(n, d) else size @ gram.abs()
        along = size * squares.unsqueeze(2)
        magnitude += 4 * upstream * (product / (n - 1) ** 2 + along / (n - 1))
    for v, result in zip((v for v in (0, 1) if needs[v]), results, strict=True):
        assert_within(result, wanted[v], magnitude[v], n + d, dtype)


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


def test_cuts_that_nothing_has_or_no_kernel_can_take_are_errors():
    x = torch.randn(1, 8, 40)
    options = VICRegSettings(variance=False, invariance=False)
    with pytest.raises(ValueError, match="cuts: slabs: nothing of that name is cut"):
        cpu.vicreg_forward(x, None, options, {"slabs": 3})
    with pytest.raises(
        ValueError, match=r"cuts: columns: expected a multiple of 32 in \[32, 256\]"
    ):
        cpu.vicreg_forward(x, None, options, {"columns": 33})
    with pytest.raises(ValueError, match=r"cuts: threads: expected a multiple of 1 in \[1, 256\]"):
        cpu.vicreg_forward(x, None, options, {"threads": 0})


def test_one_view_has_no_invariance():
    x = torch.randn(1, 8, 40, dtype=torch.float64)
    options = VICRegSettings(1.0, 1.0, 1.0)
    terms = cpu.vicreg_forward(x, None, options)[0]
    torch.testing.assert_close(terms, plain.vicreg_forward(x, None, options)[0])
    assert terms[1] == 0
