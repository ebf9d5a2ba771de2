"""The torch backend's passes however they are cut: blocks of one row, one row in the last, blocks
larger than the data. In float64, and measured against the pass in one piece."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import torch as plain
from sslkernels.passes.sigreg import SIGRegSettings

few = settings(max_examples=25, deadline=None)
sizes, cuts = st.integers(1, 12), st.integers(1, 14)


def same(ours, whole):
    """Sums of at most a few hundred terms of size 1, in another order."""
    for one, other in zip(ours, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, equal_nan=True)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@few
@given(n=sizes, d=sizes, c=sizes, elements=st.integers(1, 160))
def test_class_moments(n, d, c, elements):
    z, labels = normal(n, d), torch.arange(n)[None] * 7 % (c + 1) - 1
    results = []
    for how in ({}, {"elements": elements}):
        state = (
            torch.zeros(c, dtype=torch.int64),
            *(torch.zeros(*size, dtype=torch.float64) for size in ((c, d), (c,))),
        )
        plain.class_moments_update(z, labels, [state], -1, **how)
        results.append(state)
    same(*results)


@few
@given(n=sizes, d=sizes, c=sizes, block=cuts, columns=cuts, pair_chunk=cuts)
def test_class_projections(n, d, c, block, columns, pair_chunk):
    z, centers = normal(n, d), normal(c, d)
    classes, counts = torch.arange(n) % (c + 1) - 1, torch.full((c,), 3)
    z[n // 2] = centers[0]  # a distance that ties with that to the own center, and others close
    centers[c // 2] = centers[-1] + 1e-9
    known = (z, classes, centers, counts, True)
    how = {"block": block, "columns": columns, "pair_chunk": pair_chunk}
    rank, alone, spread = plain.class_projections_forward(*known, **how)
    whole = plain.class_projections_forward(*known)
    assert torch.equal(rank, whole[0]) and torch.equal(alone, whole[1])
    # The root of a spread is of size reach / near; a projection and a squared distance between two
    # centers are sums of d float64 products of size reach^2 and reach * near.
    near = torch.nn.functional.pdist(centers).min() if c > 1 else 1.0
    reach = 2 * max(z.double().norm(dim=1).max(), centers.norm(dim=1).max())
    lost = 4 * (d + 4) * torch.finfo(torch.float64).eps * float(reach / near)
    torch.testing.assert_close(
        *(spread.sqrt(), whole[2].sqrt()),
        **{"rtol": 2 * lost, "atol": (n * c) ** 0.5 * lost * float(reach / near)},
        equal_nan=True,
    )


@few
@given(n=sizes, d=sizes, c=sizes, elements=st.integers(1, 160))
def test_nearest_center(n, d, c, elements):
    z, centers = normal(n, d), normal(c, d)
    centers[c // 2] = centers[0]
    z[n // 2, 0] = torch.nan
    got = plain.nearest_center_forward(z, centers, True, elements=elements)
    assert torch.equal(got, plain.nearest_center_forward(z, centers, True))


@few
@given(n=sizes, d=sizes, at_once=st.integers(1, 160))
def test_nt_xent(n, d, at_once):
    x, y, grad = normal(n, d), normal(n + 1, d)[1:], normal(3)
    how = {"logits_at_once": at_once}
    whole = plain.nt_xent_forward(x, y, 0.5)
    same(plain.nt_xent_forward(x, y, 0.5, **how), whole)
    backward = (grad, x, y, whole[1], 0.5, True, True)
    same(plain.nt_xent_backward(*backward, **how), plain.nt_xent_backward(*backward))


@few
@given(c=sizes, d=sizes, block=cuts, pair_chunk=cuts)
def test_pairs_of_means(c, d, block, pair_chunk):
    mean, m2, counts = normal(c, d), normal(c).square(), torch.arange(c) % 4
    mean[c // 2] = mean[-1] + 1e-7
    ours = plain.cdnv_sum(mean, m2, counts, block=block, pair_chunk=pair_chunk)
    # What cancels in products of float64 is taken from differences of means 1e-7 apart.
    for one, other in zip(ours, plain.cdnv_sum(mean, m2, counts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=0, equal_nan=True)
    same(plain.cosine_gap_sum(mean, counts, block=block), plain.cosine_gap_sum(mean, counts))


@few
@given(n=sizes, d=sizes, c=sizes, block=cuts, tile=cuts)
def test_scatter(n, d, c, block, tile):
    z, centers, classes = normal(n, d), normal(c, d), torch.arange(n) % (c + 1) - 1
    results = []
    for how in ({}, {"block": block, "tile": tile}):
        upper = torch.ones(d, d, dtype=torch.float64)
        plain.scatter_update(z, classes, centers, upper, **how)
        results.append((upper.triu(),))
    same(*results)


@few
@given(n=sizes, d=sizes, slices=sizes, at_once=st.integers(1, 160))
def test_sigreg(n, d, slices, at_once):
    z, step, options = normal(n, d), torch.tensor(3), SIGRegSettings(slices, 5, 0.0, 3.0, 1)
    how = {"projections": at_once}
    whole = plain.sigreg_forward(z, step, options)
    same((plain.sigreg_forward(z, step, options, **how),), (whole,))
    backward = (normal(*whole.shape), z, step, options)
    same((plain.sigreg_backward(*backward, **how),), (plain.sigreg_backward(*backward),))


@few
@given(n=sizes, d=sizes, block=cuts)
def test_unit_moments(n, d, block):
    z = normal(n, d)
    same(plain.unit_moments_forward(z, block=block), plain.unit_moments_forward(z))
