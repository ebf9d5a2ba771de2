import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels import reference
from sslkernels.reference.ncc_scores import ncc_scores as reference_ncc_scores
from sslkernels.statistics import _rows
from tests.inputs import labelled, labelled_inputs

TOP_K = (1, 2, 5)


def reference_of(m: ssk.ClassMoments) -> reference.ClassMoments:
    return reference.ClassMoments(m.counts.numpy(), m.centers().numpy(), m.m2.numpy())


def undecided(data, m: reference.ClassMoments, *, alone: bool) -> int:
    """Rows for which float64 cannot tell the own center from another, by differences."""
    rows = np.flatnonzero(data.labels.numpy() != -100)
    y = data.labels.numpy()[rows]
    d2 = reference.squared_distances(data.exact()[rows], m)
    own = d2[np.arange(len(rows)), y]
    if alone:
        n = m.counts[y].astype(float)
        own = own * (n / np.maximum(n - 1, 0.5)) ** 2
    d2[np.arange(len(rows)), y] = np.inf
    # A distance errs by the rounding of means and rows, however near the two are to each other.
    magnitude = np.abs(data.exact()).max(initial=0.0)
    size = 1e-13 * (own[:, None] + d2) + 1e-15 * magnitude * np.sqrt(own[:, None] + d2)
    with np.errstate(invalid="ignore"):
        return int((np.abs(d2 - own[:, None]) <= size).any(1).sum())


@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs(), array=st.booleans())
def test_equals_reference(data, array):
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    ref = reference_of(m)
    got = ssk.ncc_scores(data.z, data.labels, m.centers() if array else m, top_k=TOP_K)
    want = reference_ncc_scores(
        data.exact(), data.labels.numpy(), ref.means if array else ref, top_k=TOP_K
    )
    rows = int((data.labels != -100).sum())
    slack = undecided(data, ref, alone=False)
    np.testing.assert_allclose(got.top_k.numpy() * rows, want.top_k * rows, atol=slack + 1e-9)
    if not slack:
        np.testing.assert_allclose(got.per_class.numpy(), want.per_class, rtol=1e-12)
    if array:
        assert got.leave_one_out is None
    else:
        slack = undecided(data, ref, alone=True)
        np.testing.assert_allclose(
            float(got.leave_one_out) * rows, want.leave_one_out * rows, atol=slack + 1e-9
        )


@settings(max_examples=30, deadline=None)
@given(data=labelled_inputs(), cuts=st.lists(st.integers(0, 70), max_size=4))
def test_batches_and_merges_equal_the_whole(data, cuts):
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    edges = [0, *sorted(min(c, len(data.z)) for c in cuts), len(data.z)]
    parts = [ssk.NCCScoresPass(m), ssk.NCCScoresPass(m)]
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        parts[k % 2].update(data.z[a:b], data.labels[a:b])
    got = parts[0].merge(parts[1]).compute()
    for a, b in zip(got, ssk.ncc_scores(data.z, data.labels, m), strict=True):
        assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


def test_the_first_of_the_top_is_the_accuracy():
    data = labelled(500, 8, 40, separation=0.5, ignored=0.1)
    m = ssk.class_moments(data.z, data.labels, 40)
    scores = ssk.ncc_scores(data.z, data.labels, m, top_k=(1, 40))
    assert scores.top_k[0] == ssk.ncc_accuracy(data.z, data.labels, m)
    assert scores.top_k[1] == 1
    rows = data.labels >= 0
    hits = (ssk.ncc_predict(data.z, m) == data.labels)[rows]
    for c in (0, 17):
        assert scores.per_class[c] == hits[data.labels[rows] == c].double().mean()


def test_near_ties_are_decided_by_differences():
    # Centers in pairs, one last place apart around a large offset: products cannot tell them apart.
    g = torch.Generator().manual_seed(0)
    centers = (torch.randn(20, 24, generator=g, dtype=torch.float64) + 1e5).repeat_interleave(2, 0)
    centers[1::2, 0] += 2e-11
    z = centers[torch.arange(40).repeat(10)] + torch.randn(400, 24, generator=g).double()
    labels = torch.arange(40).repeat(10)
    got = ssk.ncc_scores(z, labels, centers, top_k=(1, 2))
    want = reference_ncc_scores(z, labels, centers, top_k=(1, 2))
    np.testing.assert_array_equal(got.top_k, want.top_k)
    assert 0.3 < float(got.top_k[0]) < 0.7 < float(got.top_k[1])


def test_ties_go_to_the_lowest_class():
    centers = torch.tensor([[torch.nan], [1.0], [-1.0], [1.0]])
    z = torch.zeros(4, 1)
    labels = torch.tensor([0, 1, 2, 3])
    scores = ssk.ncc_scores(z, labels, centers, top_k=(1, 2, 3))
    assert scores.per_class.tolist() == [0, 1, 0, 0]
    assert scores.top_k.tolist() == [0.25, 0.5, 0.75]


def test_leaving_one_out_of_a_class_of_one_or_two():
    z = torch.tensor([[0.0], [1.0], [4.0], [9.0]])
    m = ssk.class_moments(z, torch.tensor([0, 0, 1, 2]), 3)
    scores = ssk.ncc_scores(z, torch.tensor([0, 0, 1, 2]), m)
    assert float(scores.top_k[0]) == 1 and float(scores.leave_one_out) == 0.5


def test_rows_that_are_not_finite_count_as_wrong():
    z = torch.tensor([[torch.nan, 0.0], [0.0, 0.0], [torch.inf, 1.0]])
    scores = ssk.ncc_scores(z, torch.tensor([0, 0, 1]), torch.zeros(2, 2), top_k=(2,))
    assert scores.top_k.tolist() == [1 / 3] and scores.per_class.tolist() == [0.5, 0]
    none = ssk.ncc_scores(z, torch.tensor([0, 0, 1]), torch.full((2, 2), torch.nan))
    assert none.top_k.tolist() == [0, 0]
    assert ssk.ncc_scores(z, torch.full((3,), -100), torch.zeros(2, 2)).top_k.isnan().all()


def test_blocks_and_tiles_do_not_change_the_result(monkeypatch):
    data = labelled(300, 6, 30, separation=0.5)
    m = ssk.class_moments(data.z, data.labels, 30)
    whole = ssk.ncc_scores(data.z, data.labels, m)
    monkeypatch.setattr(_rows, "_CHUNK", 60)
    monkeypatch.setattr(_rows, "_ROWS_PER_CLASS", 1)
    for a, b in zip(ssk.ncc_scores(data.z, data.labels, m), whole, strict=True):
        assert torch.equal(a, b)


def test_numpy_in_numpy_out_and_state(tmp_path):
    data = labelled(60, 5, 4)
    m = ssk.class_moments(data.z, data.labels, 4)
    got = ssk.ncc_scores(data.z.numpy(), data.labels.numpy(), m.means.numpy())
    assert isinstance(got.top_k, np.ndarray) and got.per_class.shape == (4,)
    half = ssk.NCCScoresPass(m).update(data.z[:30], data.labels[:30])
    torch.save(half.state_dict(), tmp_path / "pass.pt")
    again = ssk.NCCScoresPass(m).load_state_dict(torch.load(tmp_path / "pass.pt"))
    whole = again.update(data.z[30:], data.labels[30:]).compute()
    assert torch.equal(whole.top_k, ssk.ncc_scores(data.z, data.labels, m).top_k)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"centers": torch.zeros(2, 4)}, ValueError, "z: expected 4 columns to match the centers"),
        ({"centers": torch.zeros(2)}, ValueError, r"centers: expected shape \[N, D\], got \[2\]"),
        ({"top_k": (0,)}, ValueError, "top_k: expected a positive int, got 0"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, ValueError, r"row 2 holds 2, outside \[0, 2\)"),
        ({"labels": torch.tensor([0, 1])}, ValueError, r"labels: expected shape \[4\]"),
        ({"z": torch.zeros(4, 3).long()}, TypeError, "z: expected float16"),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, match):
    args = {"z": torch.zeros(4, 3), "labels": torch.tensor([0, 1, 1, 0])}
    with pytest.raises(error, match=match):
        ssk.ncc_scores(**({**args, "centers": torch.zeros(2, 3)} | change))


@settings(max_examples=40, deadline=None)
@given(data=labelled_inputs())
def test_the_way_of_top_1_alone_is_that_of_any_k(data):
    centers = ssk.class_means(data.z, data.labels, data.num_classes)
    alone = ssk.ncc_scores(data.z, data.labels, centers, top_k=(1,))
    among = ssk.ncc_scores(data.z, data.labels, centers, top_k=(1, 2))
    np.testing.assert_array_equal(alone.top_k[0], among.top_k[0])
    np.testing.assert_array_equal(alone.per_class, among.per_class)
