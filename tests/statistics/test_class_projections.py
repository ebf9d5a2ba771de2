"""NCC scores and directional CDNV together are each of them alone, and the reference's."""

import importlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels import reference
from sslkernels.statistics import _rows
from tests.inputs import labelled, labelled_inputs

MODULE = importlib.import_module("sslkernels.statistics.class_projections")
TOP_K = (1, 2, 5)


def assert_same(got, want, rtol=0.0, atol=0.0):
    scores, line = want
    for a, b in zip(got.scores, scores, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(got.directional_cdnv, line, rtol=rtol, atol=atol)


def one_by_one(z, labels, m):
    return ssk.ncc_scores(z, labels, m, top_k=TOP_K), ssk.directional_cdnv(z, labels, m)


@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs())
def test_equals_the_two_functions(data):
    """On drawn sizes, dtypes, strides and offsets. Distances between means are taken once for all
    batches here, by the pass there: float64 sums in another order."""
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    got = ssk.class_projections(data.z, data.labels, m, top_k=TOP_K)
    assert got.directional_cdnv.dtype == torch.float64
    assert_same(got, one_by_one(data.z, data.labels, m), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference(dtype):
    data = labelled(300, 12, 9, separation=0.7, ignored=0.2, offset=1e3, dtype=dtype)
    m = ssk.class_moments(data.z, data.labels, 9)
    exact = reference.ClassMoments(m.counts.numpy(), m.centers().numpy(), m.m2.numpy())
    want = reference.class_projections(data.exact(), data.labels.numpy(), exact, top_k=TOP_K)
    got = ssk.class_projections(data.z, data.labels, m, top_k=TOP_K)
    np.testing.assert_allclose(got.scores.top_k, want.scores.top_k, rtol=1e-12)
    np.testing.assert_allclose(got.scores.per_class, want.scores.per_class, rtol=1e-12)
    np.testing.assert_allclose(got.scores.leave_one_out, want.scores.leave_one_out, rtol=1e-12)
    np.testing.assert_allclose(got.directional_cdnv, want.directional_cdnv, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(data=labelled_inputs(), cuts=st.lists(st.integers(0, 70), max_size=4))
def test_batches_and_merges_equal_the_whole(data, cuts):
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    edges = [0, *sorted(min(c, len(data.z)) for c in cuts), len(data.z)]
    parts = [ssk.ClassProjectionsPass(m, top_k=TOP_K) for _ in range(2)]
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        parts[k % 2].update(data.z[a:b], data.labels[a:b])
    want = ssk.class_projections(data.z, data.labels, m, top_k=TOP_K)
    assert_same(parts[0].merge(parts[1]).compute(), want, rtol=1e-9, atol=1e-300)


def test_one_product_serves_both(monkeypatch):
    data = labelled(90, 5, 4)
    m = ssk.class_moments(data.z, data.labels, 4)
    calls = []
    once = MODULE.class_projections_pass
    monkeypatch.setattr(MODULE, "class_projections_pass", lambda *a: (calls.append(a), once(*a))[1])
    ssk.class_projections(data.z, data.labels, m)
    assert len(calls) == 1


def test_chunks_and_a_table_of_distances_do_not_change_the_result(monkeypatch):
    data = labelled(300, 6, 30, separation=0.5)
    m = ssk.class_moments(data.z, data.labels, 30)
    whole = ssk.class_projections(data.z, data.labels, m)
    monkeypatch.setattr(_rows, "_CHUNK", 60)
    monkeypatch.setattr(_rows, "_ROWS_PER_CLASS", 1)
    monkeypatch.setattr(MODULE, "_TABLE", 0)
    assert_same(ssk.class_projections(data.z, data.labels, m), whole, rtol=1e-9)


def test_without_directional_cdnv():
    data = labelled(90, 5, 4)
    m = ssk.class_moments(data.z, data.labels, 4)
    alone = ssk.ClassProjectionsPass(m, directional=False).update(data.z, data.labels).compute()
    whole = ssk.class_projections(data.z, data.labels, m)
    assert alone.directional_cdnv is None
    for a, b in zip(alone.scores, whole.scores, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_row_and_a_class_that_are_not_finite():
    data = labelled(90, 5, 4)
    data.z[7] = torch.nan
    m = ssk.class_moments(data.z[8:], data.labels[8:], 4)
    assert_same(
        ssk.class_projections(data.z, data.labels, m, top_k=TOP_K),
        one_by_one(data.z, data.labels, m),
    )
    poisoned = ssk.class_moments(data.z, data.labels, 4)
    got = ssk.class_projections(data.z, data.labels, poisoned, top_k=TOP_K)
    assert got.directional_cdnv.isnan() and 0 < got.scores.top_k[0] < 1


def test_numpy_in_numpy_out_and_state(tmp_path):
    data = labelled(60, 5, 4)
    z, labels = data.z.numpy(), data.labels.numpy()
    m = ssk.class_moments(z, labels, 4)
    got = ssk.class_projections(z, labels, m)
    assert isinstance(got.directional_cdnv, np.float64) and isinstance(got.scores.top_k, np.ndarray)
    half = ssk.ClassProjectionsPass(m).update(z[:30], labels[:30])
    torch.save(half.state_dict(), tmp_path / "pass.pt")
    again = ssk.ClassProjectionsPass(m).load_state_dict(torch.load(tmp_path / "pass.pt"))
    assert_same(
        again.update(z[30:], labels[30:]).compute(), half.update(z[30:], labels[30:]).compute()
    )


def test_bad_arguments():
    m = ssk.ClassMoments.empty(2, 3)
    z, labels = torch.zeros(4, 3), torch.tensor([0, 1, 1, 0])
    with pytest.raises(TypeError, match="m: expected ClassMoments, got Tensor"):
        ssk.class_projections(z, labels, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="top_k: expected a positive int, got 0"):
        ssk.class_projections(z, labels, m, top_k=(0,))
    with pytest.raises(ValueError, match="labels: row 3 holds 2, outside"):
        ssk.class_projections(z, labels + torch.tensor([0, 0, 0, 2]), m)
    with pytest.raises(ValueError, match="z: expected 3 columns to match the centers"):
        ssk.class_projections(z[:, :2], labels, m)
    with pytest.raises(TypeError, match="other: expected ClassProjectionsPass, got NCCScoresPass"):
        ssk.ClassProjectionsPass(m).merge(ssk.NCCScoresPass(m))
