"""NT-Xent on the CPU however its rows are grouped: an odd number of groups, one group, one row in
the last, and more threads than groups; and of a range of own samples, in strips of any height."""

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
from tests.losses.common import arithmetic, make_view

half_blocks = near(*(BLOCK // 2 * k for k in range(1, 7)))  # of the 2N rows


def check(isa, dtype, data):
    n = data.draw(st.integers(1, 30) | half_blocks)
    d = data.draw(st.integers(1, 40) | near(128, 256))
    own = None
    if data.draw(st.booleans()):
        first = data.draw(st.integers(0, n - 1))
        own = first, data.draw(st.integers(1, n - first) | st.just(1))
    first, samples = own or (0, n)
    blocks = -(-2 * n // BLOCK)
    # A range of all samples is all rows, too.
    cuts = {"group": BLOCK * data.draw(st.integers(1, blocks))}
    if samples < n:
        cuts = {"height": 16 * data.draw(st.integers(1, BLOCK // 16))}
    threads = data.draw(st.integers(1, 5))
    temperature = data.draw(st.sampled_from([0.1, 1.0]))
    x, y = (make_view(n, d, seed, dtype=dtype, shared=0.5) for seed in (0, 1))
    exact = x.double(), y.double()
    z = torch.cat(exact)
    norm = z.norm(dim=1, keepdim=True)
    u = z / norm
    size = 1 + 1 / temperature  # of logits, and of how far their errors reach

    def of_own(t):
        """Own rows of [..., 2N]."""
        return t.unflatten(-1, (2, n))[..., first : first + samples].flatten(-2)

    terms, rows = plain.nt_xent_forward(*exact, temperature)
    if own:
        lse, row_loss = of_own(rows)
        terms = torch.stack((row_loss, row_loss - lse, lse)).mean(1)
    got = on_any_threads(
        isa, lambda cuts: cpu.nt_xent_forward(x, y, temperature, own, cuts), cuts, threads
    )
    assert_within(got[0], terms, size + terms.abs(), d + 4 * n, dtype)
    assert_within(got[1], of_own(rows), size + of_own(rows).abs(), d + 2 * n, dtype)

    grad = torch.tensor([0.7, -0.4, 1.3], dtype=torch.float64)
    needs = data.draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    needs = (*needs, data.draw(st.booleans()))
    unrounded = data.draw(st.booleans())
    wanted = plain.nt_xent_backward(grad, *exact, rows, temperature, True, True)
    results = on_any_threads(
        isa,
        lambda cuts: [
            g
            for g in cpu.nt_xent_backward(
                grad, x, y, rows, temperature, *needs, own, unrounded, cuts
            )
            if g is not None
        ],
        cuts,
        threads,
    )
    share = (u @ u.T / temperature - rows[0].unsqueeze(1)).exp()
    on_u = grad.abs().sum() * ((share + share.T) @ u.abs() + 2 * u.roll(n, 0).abs())
    along = (on_u * u.abs()).sum(1, keepdim=True)
    magnitude = size * (on_u + along) / norm / (2 * n * temperature)
    radial = plain_radial(grad, u, share.fill_diagonal_(0), temperature)
    kept = slice(first, first + samples)
    expected = [(wanted[v][kept], magnitude[v * n : (v + 1) * n][kept]) for v in (0, 1) if needs[v]]
    if needs[2]:
        expected.append(
            (of_own(radial).sum(), size * of_own(along.T).sum() / (2 * n * temperature))
        )
    for result, (want, sizes) in zip(results, expected, strict=True):
        assert_within(result, want, sizes, 2 * d + 2 * n, dtype)
    assert results[0].dtype == (arithmetic(dtype) if unrounded else dtype)


def plain_radial(grad, u, share, temperature):
    """[2N]: u . dL/du of every row."""
    loss, alignment, uniformity = grad
    partner = u.roll(len(u) // 2, 0)
    on_u = (loss + uniformity) * (share + share.T) @ u - 2 * (loss + alignment) * partner
    return (u * on_u).sum(1) / (len(u) * temperature)


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


def test_groups_are_whole_blocks_and_strips_whole_vectors():
    x = torch.randn(70, 5)
    for group in (48, 97, 3 * BLOCK):
        with pytest.raises(
            ValueError, match=r"cuts: group: expected a multiple of 96 in \[96, 192\]"
        ):
            cpu.nt_xent_forward(x, x, 0.5, cuts={"group": group})
    for height in (0, 24, 112):
        with pytest.raises(
            ValueError, match=r"cuts: height: expected a multiple of 16 in \[16, 96\]"
        ):
            cpu.nt_xent_forward(x, x, 0.5, (3, 5), {"height": height})


def by_ranges(backend, x, y, temperature, parts):
    """Rows of all, and the gradients of all rows, each range of samples by itself."""
    own = [(sum(parts[:r]), part) for r, part in enumerate(parts)]
    rows = [
        backend.nt_xent_forward(x, y, temperature, each)[1].unflatten(1, (2, -1)) for each in own
    ]
    rows = torch.cat(rows, 2).flatten(1)
    grad = torch.tensor([1.0, 0.5, -0.25], dtype=torch.float64)
    found = [
        backend.nt_xent_backward(grad, x, y, rows, temperature, True, True, True, each, True)
        for each in own
    ]
    grads = [torch.cat(each) for each in list(zip(*found, strict=True))[:2]]
    whole = backend.nt_xent_backward(grad, x, y, rows, temperature, True, True, True, None, True)
    return rows, (*grads, sum(f[2] for f in found)), whole


@pytest.mark.parametrize("backend", [cpu, plain], ids=["cpu", "torch"])
@pytest.mark.parametrize(
    ("dtype", "temperature"),
    [(torch.float64, 1e-6), (torch.float64, 1e4), (torch.float32, 0.01), (torch.float32, 1.0)],
    ids=str,
)
def test_ranges_are_parts_of_the_whole(backend, temperature, dtype):
    """At any temperature, of strided views, with rows of zeros and rows far from length 1."""
    x, y = (make_view(120, 11, seed, dtype=dtype, shared=0.5)[:, ::2] for seed in (0, 1))
    x[3], x[40], y[5] = 0, x[40] * 1e-20, y[5] * 1e15
    rows, parts, whole = by_ranges(backend, x, y, temperature, [1, 50, 17, 52])
    _, exact = backend.nt_xent_forward(x, y, temperature)
    eps = torch.finfo(dtype).eps
    steep = 1 + 1 / temperature  # what a rounding of a cosine is multiplied by
    assert ((rows - exact).abs() <= 8 * eps * (exact.abs() + steep)).all()
    for part, all_rows in zip(parts, whole, strict=True):
        assert part.isfinite().all()
        largest = all_rows.abs().amax(-1, keepdim=True)
        assert ((part - all_rows).abs() <= 16 * eps * steep * largest).all()
