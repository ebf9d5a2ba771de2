import importlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels import reference
from sslkernels.reference.directional_cdnv import directional_cdnv as reference_directional_cdnv
from sslkernels.statistics import _rows
from tests.inputs import labelled, labelled_inputs


def reference_of(m: ssk.ClassMoments) -> reference.ClassMoments:
    return reference.ClassMoments(m.counts.numpy(), m.centers().numpy(), m.m2.numpy())


def slack(data, m: ssk.ClassMoments) -> float:
    """Relative to its own terms: a projection of r on a line of length d loses eps ||v|| / d."""
    means = m.centers()[m.counts > 0].numpy()
    if len(means) < 2:
        return 0.0
    d = np.sqrt(((means[:, None] - means) ** 2).sum(2))
    nearest = d[~np.eye(len(means), dtype=bool)].min()
    size = np.abs(means - means.mean(0)).max() + 1e-3 * np.abs(means).max()
    return 1e-9 if nearest > 1e-5 * size else np.inf


@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs())
def test_equals_reference(data):
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    rtol = slack(data, m)
    if rtol == np.inf:
        return
    for reduction in ("mean", "none"):
        got = ssk.directional_cdnv(data.z, data.labels, m, reduction=reduction)
        want = reference_directional_cdnv(
            data.exact(), data.labels.numpy(), reference_of(m), reduction=reduction
        )
        assert got.dtype == torch.float64
        # Rows may lie across the line to the last digit: relative to the variance, not the part.
        variance = np.nanmax(reference.cdnv(reference_of(m), reduction="none"), initial=0.0)
        floor = 1e-18 * variance
        if reduction == "mean" and data.z.dtype != torch.float64:
            # float32 projections lose a few roundings of ||r|| ||v||; ||v|| is at most 64 d.
            lost = (64 * 2.0**-20) ** 2 * variance
            floor = lost + 2 * np.sqrt(lost * np.nan_to_num(want))
        np.testing.assert_allclose(got.numpy(), want, rtol=rtol, atol=floor)


@settings(max_examples=30, deadline=None)
@given(data=labelled_inputs(), cuts=st.lists(st.integers(0, 70), max_size=4))
def test_batches_and_merges_equal_the_whole(data, cuts):
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    edges = [0, *sorted(min(c, len(data.z)) for c in cuts), len(data.z)]
    for reduction in ("mean", "none"):
        parts = [ssk.DirectionalCDNVPass(m, reduction=reduction) for _ in range(2)]
        for k, (a, b) in enumerate(itertools.pairwise(edges)):
            parts[k % 2].update(data.z[a:b], data.labels[a:b])
        got = parts[0].merge(parts[1]).compute()
        want = ssk.directional_cdnv(data.z, data.labels, m, reduction=reduction)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-300, equal_nan=True)


def test_from_the_data_to_the_number():
    data = labelled(500, 16, 7, offset=1e5)
    m = ssk.class_moments(data.z, data.labels, 7)
    want = reference_directional_cdnv(
        data.exact(),
        data.labels.numpy(),
        reference.class_moments(data.exact(), data.labels.numpy(), 7),
    )
    np.testing.assert_allclose(ssk.directional_cdnv(data.z, data.labels, m), want, rtol=1e-6)


def test_isotropic_classes_have_cdnv_over_dimension():
    data = labelled(40000, 8, 3, dtype=torch.float64, offset=1e5)
    m = ssk.class_moments(data.z, data.labels, 3)
    ratio = float(ssk.directional_cdnv(data.z, data.labels, m) / ssk.cdnv(m))
    assert ratio == pytest.approx(1 / 8, rel=0.05)


def test_blocks_and_tiles_do_not_change_the_result(monkeypatch):
    data = labelled(400, 9, 50, ignored=0.2)
    m = ssk.class_moments(data.z, data.labels, 50)
    whole = [ssk.directional_cdnv(data.z, data.labels, m, reduction=r) for r in ("mean", "none")]
    monkeypatch.setattr(_rows, "BLOCK", 7)
    monkeypatch.setattr(_rows, "_CHUNK", 60)
    monkeypatch.setattr(_rows, "_ROWS_PER_CLASS", 1)
    module = importlib.import_module("sslkernels.statistics.directional_cdnv")
    monkeypatch.setattr(module, "_COLUMNS", 8)
    for r, want in zip(("mean", "none"), whole, strict=True):
        got = ssk.directional_cdnv(data.z, data.labels, m, reduction=r)
        torch.testing.assert_close(got, want, equal_nan=True)


def test_means_that_nearly_coincide_keep_their_digits():
    # Two far groups of classes; means of a group differ by 1e-6 of the distance to the other.
    g = torch.Generator().manual_seed(0)
    base = torch.randn(2, 16, generator=g, dtype=torch.float64).repeat_interleave(5, 0)
    means = base + 1e-6 * torch.randn(10, 16, generator=g, dtype=torch.float64)
    labels = torch.arange(10).repeat(30)
    z = means[labels] + 1e-7 * torch.randn(300, 16, generator=g, dtype=torch.float64)
    m = ssk.class_moments(z, labels, 10)
    got = ssk.directional_cdnv(z, labels, m, reduction="none")
    want = reference_directional_cdnv(z, labels, reference_of(m), reduction="none")
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-7)


def test_identical_means_have_no_line():
    z = torch.tensor([[0.0], [2.0], [1.0], [1.0], [5.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    m = ssk.class_moments(z, labels, 3)
    got = ssk.directional_cdnv(z, labels, m, reduction="none")
    assert got[0, 1].isnan() and got[1, 0].isnan() and got[0, 2] == 1 / 16 and got[2, 0] == 0
    assert ssk.directional_cdnv(z, labels, m).isnan()


def test_a_class_that_is_not_finite_leaves_the_other_pairs():
    data = labelled(90, 5, 4)
    clean = ssk.class_moments(data.z, data.labels, 4)
    want = ssk.directional_cdnv(data.z, data.labels, clean, reduction="none")
    data.z[data.labels == 2] = torch.inf
    m = ssk.class_moments(data.z, data.labels, 4)
    got = ssk.directional_cdnv(data.z, data.labels, m, reduction="none")
    assert got[2].isnan().all() and got[:, 2].isnan().all()
    keep = torch.tensor([0, 1, 3])
    torch.testing.assert_close(got[keep][:, keep], want[keep][:, keep], equal_nan=True)


def test_rows_of_classes_without_a_mean_enter_no_pair():
    z = torch.tensor([[0.0], [2.0], [10.0], [7.0]])
    m = ssk.class_moments(z[:3], torch.tensor([0, 0, 1]), 3)
    got = ssk.directional_cdnv(z, torch.tensor([0, 0, 1, 2]), m)
    assert float(got) == pytest.approx((1 / 81 + 0) / 2)
    one = ssk.class_moments(z, torch.zeros(4, dtype=torch.int64), 3)
    assert ssk.directional_cdnv(z, torch.zeros(4, dtype=torch.int64), one).isnan()


def test_numpy_in_numpy_out_and_repetition():
    data = labelled(200, 6, 4)
    z, labels = data.z.numpy(), data.labels.numpy()
    m = ssk.class_moments(z, labels, 4)
    got = ssk.directional_cdnv(z, labels, m)
    assert isinstance(got, np.float64) and got == ssk.directional_cdnv(z, labels, m)
    assert ssk.directional_cdnv(z, labels, m, reduction="none").shape == (4, 4)


def test_state_round_trip(tmp_path):
    data = labelled(60, 5, 4)
    m = ssk.class_moments(data.z, data.labels, 4)
    half = ssk.DirectionalCDNVPass(m).update(data.z[:30], data.labels[:30])
    torch.save(half.state_dict(), tmp_path / "pass.pt")
    again = ssk.DirectionalCDNVPass(m).load_state_dict(torch.load(tmp_path / "pass.pt"))
    half.update(data.z[30:], data.labels[30:])
    assert again.update(data.z[30:], data.labels[30:]).compute() == half.compute()
    with pytest.raises(
        ValueError, match=r"other: sums: expected torch.float64 \[4\], got .*\[4, 4\]"
    ):
        half.merge(ssk.DirectionalCDNVPass(m, reduction="none"))


def test_bad_arguments():
    m = ssk.ClassMoments.empty(2, 3)
    z, labels = torch.zeros(4, 3), torch.tensor([0, 1, 1, 0])
    with pytest.raises(TypeError, match="m: expected ClassMoments, got Tensor"):
        ssk.directional_cdnv(z, labels, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'none', got 'sum'"):
        ssk.directional_cdnv(z, labels, m, reduction="sum")
    with pytest.raises(ValueError, match="labels: row 3 holds 2, outside"):
        ssk.directional_cdnv(z, labels + torch.tensor([0, 0, 0, 2]), m)
    with pytest.raises(ValueError, match="z: expected 3 columns to match the centers"):
        ssk.directional_cdnv(z[:, :2], labels, m)
