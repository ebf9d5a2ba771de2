import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels import reference
from sslkernels.statistics.class_moments import update_all
from tests.inputs import Labelled, labelled, labelled_inputs

BACKENDS = ("cpu", "torch")


def assert_moments(m: ssk.ClassMoments, data: Labelled, labels=None, num_classes=None) -> None:
    """Means to a rounding of the largest entry; scatter to roundings of its own size.

    Differences to a shift near the class are formed in the dtype of the sums, so each loses a few
    ``eps`` of itself. Means are kept in float64: rounded at the data's magnitude, they move a
    scatter by up to ``eps64 * magnitude`` times the sum of the differences.
    """
    labels = data.labels if labels is None else labels
    ref = reference.class_moments(data.exact(), labels.numpy(), num_classes or data.num_classes)
    np.testing.assert_array_equal(m.counts.numpy(), ref.counts)
    double = np.finfo(np.float64).eps
    eps = double if data.z.dtype == torch.float64 else np.finfo(np.float32).eps
    magnitude = np.abs(data.exact()).max(initial=0.0)
    means = m.means.double().numpy()
    np.testing.assert_allclose(means, ref.means, rtol=0, atol=2 * eps * magnitude)
    sum_of_differences = np.sqrt(ref.counts * data.z.shape[1] * ref.m2)
    slack = 4 * double * magnitude * (sum_of_differences + ref.counts * double * magnitude)
    np.testing.assert_array_less(np.abs(m.m2.numpy() - ref.m2), 16 * eps * ref.m2 + slack + 1e-300)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs())
def test_equals_reference(backend, data):
    with ssk.use_backend(backend):
        assert_moments(ssk.class_moments(data.z, data.labels, data.num_classes), data)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(
    data=labelled_inputs(), seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 9), max_size=4)
)
def test_several_labelings_at_once(backend, data, seed, sizes):
    g = torch.Generator().manual_seed(seed)
    n = len(data.labels)
    rows = [data.labels] + [torch.randint(c, (n,), generator=g) for c in sizes]
    with ssk.use_backend(backend):
        several = ssk.class_moments(data.z, torch.stack(rows), [data.num_classes, *sizes])
    for m, row, c in zip(several, rows, [data.num_classes, *sizes], strict=True):
        assert_moments(m, data, row, c)


@settings(max_examples=40, deadline=None)
@given(data=labelled_inputs(), cuts=st.lists(st.integers(0, 70), max_size=5))
def test_streamed_equals_whole(data, cuts):
    dtype = torch.float64 if data.z.dtype == torch.float64 else torch.float32
    m = ssk.ClassMoments.empty(data.num_classes, data.z.shape[1], dtype=dtype)
    edges = [0, *sorted(min(c, len(data.z)) for c in cuts), len(data.z)]
    for a, b in itertools.pairwise(edges):
        m.update(data.z[a:b], data.labels[a:b])
    assert_moments(m, data)


@settings(max_examples=40, deadline=None)
@given(data=labelled_inputs(), cut=st.integers(0, 70))
def test_merged_equals_whole(data, cut):
    left = ssk.class_moments(data.z[:cut], data.labels[:cut], data.num_classes)
    right = ssk.class_moments(data.z[cut:], data.labels[cut:], data.num_classes)
    assert_moments(left.merge(right), data)


@settings(max_examples=40, deadline=None)
@given(data=labelled_inputs(), seed=st.integers(0, 1000), coarse=st.integers(1, 12))
def test_coarsened_equals_direct(data, seed, coarse):
    parents = torch.randint(
        coarse, (data.num_classes,), generator=torch.Generator().manual_seed(seed)
    )
    m = ssk.class_moments(data.z, data.labels, data.num_classes).coarsen(parents, coarse)
    labels = torch.where(data.labels >= 0, parents[data.labels.clamp(min=0)], data.labels)
    assert_moments(m, data, labels, coarse)


def test_coarsening_again_gives_the_same_bits():
    data = labelled(4000, 256, 2000)
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    first = m.coarsen(torch.arange(2000) % 2)
    for _ in range(8):
        again = m.coarsen(torch.arange(2000) % 2)
        assert torch.equal(again._mean, first._mean) and torch.equal(again.m2, first.m2)


def test_numpy_and_read_only_arrays(tmp_path):
    data = labelled(50, 7, 4)
    np.save(tmp_path / "z.npy", data.z.numpy())
    z = np.load(tmp_path / "z.npy", mmap_mode="r")
    assert_moments(ssk.class_moments(z, data.labels.numpy(), 4), data)
    means = ssk.class_means(z, data.labels.numpy().astype(np.int32), 4)
    assert isinstance(means, np.ndarray) and means.dtype == np.float32
    backwards = ssk.class_means(z[::-1], data.labels.numpy()[::-1], 4)
    np.testing.assert_allclose(backwards, means, rtol=1e-6)
    big_endian = z.astype(">f4")
    np.testing.assert_array_equal(
        ssk.class_means(big_endian, data.labels.numpy(), 4)[:, 0], means[:, 0]
    )


def test_means_dtype_follows_the_embeddings():
    labels = torch.tensor([0, 1])
    for dtype, want in [(torch.float16, torch.float32), (torch.float64, torch.float64)]:
        assert ssk.class_moments(torch.ones(2, 3, dtype=dtype), labels, 2).means.dtype == want


def test_empty_and_singleton_classes():
    m = ssk.class_moments(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), 3)
    assert m.counts.tolist() == [0, 1, 0]
    assert m.means[1].tolist() == [1.0, 2.0]
    assert m.means[[0, 2]].isnan().all()
    assert m.variances[1] == 0 and m.variances[[0, 2]].isnan().all()
    assert m.variance(ddof=1).isnan().all()
    assert m.m2.tolist() == [0, 0, 0]


def test_no_rows():
    m = ssk.class_moments(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), 2)
    assert m.counts.tolist() == [0, 0] and m.means.isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_label_names_the_first_row_and_changes_nothing(backend):
    data = labelled(40, 5, 3)
    m = ssk.class_moments(data.z, data.labels, 3)
    before = {k: v.clone() for k, v in m.state_dict().items()}
    labels = data.labels.clone()
    labels[[17, 30]] = torch.tensor([3, -1])
    with (
        ssk.use_backend(backend),
        pytest.raises(ValueError, match=r"labels: row 17 holds 3, outside \[0, 3\)"),
    ):
        m.update(data.z, labels)
    for name, tensor in m.state_dict().items():
        assert torch.equal(tensor, before[name])
    two = torch.stack([data.labels, labels])
    with ssk.use_backend(backend), pytest.raises(ValueError, match=r"labels\[1\]: row 17"):
        ssk.class_moments(data.z, two, [3, 3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_with_nan_poisons_its_own_class_only(backend):
    data = labelled(60, 6, 3)
    z = data.z.clone()
    row = int((data.labels == 1).nonzero()[0])
    z[row, 2] = torch.nan
    with ssk.use_backend(backend):
        m = ssk.class_moments(z, data.labels, 3)
    whole = ssk.class_moments(data.z, data.labels, 3)
    assert m.counts.tolist() == whole.counts.tolist()
    assert m.means[1, 2].isnan() and m.m2[1].isnan()
    for c in (0, 2):
        torch.testing.assert_close(m.means[c], whole.means[c])
        torch.testing.assert_close(m.m2[c], whole.m2[c])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"z": torch.zeros(4)}, ValueError, r"z: expected shape \[N, D\], got \[4\]"),
        ({"z": torch.zeros(4, 0)}, ValueError, "z: needs at least one column"),
        ({"z": torch.zeros(4, 2, dtype=torch.int32)}, TypeError, "z: expected float16.*got int32"),
        ({"z": [[1.0]]}, TypeError, "z: expected a torch tensor or a NumPy array, got list"),
        ({"z": np.array([[None]])}, TypeError, "z: an array of dtype object"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, r"labels: expected.*got \[3\]"),
        ({"labels": torch.zeros(4)}, TypeError, "labels: expected integers, got float32"),
        ({"num_classes": 0}, ValueError, "num_classes: expected a positive int, got 0"),
        ({"num_classes": 2.0}, TypeError, "num_classes: expected an int, got float"),
        ({"num_classes": [2, 2]}, ValueError, "num_classes: expected one int"),
        ({"labels": torch.zeros(2, 4).long()}, ValueError, "num_classes: expected one int"),
        (
            {"labels": torch.zeros(2, 4, dtype=torch.int64), "num_classes": [2]},
            ValueError,
            "num_classes: expected 2 ints",
        ),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, match):
    args = {"z": torch.zeros(4, 2), "labels": torch.zeros(4, dtype=torch.int64), "num_classes": 2}
    with pytest.raises(error, match=match):
        ssk.class_moments(**(args | change))


def test_bad_merges_and_states():
    m = ssk.ClassMoments.empty(3, 2)
    with pytest.raises(ValueError, match="other: expected 3 classes of dimension 2, got 4 of 2"):
        m.merge(ssk.ClassMoments.empty(4, 2))
    with pytest.raises(TypeError, match="other: expected ClassMoments"):
        m.merge(3)
    with pytest.raises(ValueError, match="state: lacks 'm2'"):
        m.load_state_dict({"counts": m.counts, "mean": m._mean})
    with pytest.raises(ValueError, match="state: mean: expected"):
        m.load_state_dict(ssk.ClassMoments.empty(3, 5).state_dict())
    with pytest.raises(ValueError, match="parents: expected 3 integers"):
        m.coarsen([0, 1])
    with pytest.raises(ValueError, match=r"parents: expected values in \[0, 2\), got -1"):
        m.coarsen([0, 1, -1])
    with pytest.raises(ValueError, match="z: expected 2 columns"):
        m.update(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="dim: expected a positive int"):
        ssk.ClassMoments.empty(3, 0)


def test_state_round_trip(tmp_path):
    data = labelled(80, 6, 5)
    m = ssk.class_moments(data.z[:50], data.labels[:50], 5)
    torch.save(m.state_dict(), tmp_path / "m.pt")
    again = ssk.ClassMoments.empty(5, 6).load_state_dict(torch.load(tmp_path / "m.pt"))
    again.update(data.z[50:], data.labels[50:])
    assert_moments(again, data)
    m.update(data.z[50:], data.labels[50:])
    for name, tensor in m.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_infinite_means_merge_without_nan_in_other_classes():
    a = ssk.class_moments(torch.tensor([[torch.inf], [1.0]]), torch.tensor([0, 1]), 2)
    b = ssk.class_moments(torch.tensor([[3.0]]), torch.tensor([1]), 2)
    merged = a.merge(b)
    assert merged.means[1].item() == 2.0 and merged.m2[1].item() == 2.0


def test_update_all_reads_one_batch_for_many():
    data = labelled(30, 4, 3)
    pair = [ssk.ClassMoments.empty(3, 4), ssk.ClassMoments.empty(2, 4)]
    update_all(pair, data.z, torch.stack([data.labels, data.labels % 2]))
    assert_moments(pair[0], data)
    assert_moments(pair[1], data, data.labels % 2, 2)
