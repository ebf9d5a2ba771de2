import numpy as np
import pytest
import torch
from hypothesis import given, settings

import sslkernels as ssk
from sslkernels import reference
from tests.inputs import labelled, labelled_inputs

BACKENDS = ("cpu", "torch")


def assert_nearest(got: torch.Tensor, z: np.ndarray, centers: np.ndarray) -> None:
    """The predicted center is the nearest, or so near to it that float64 cannot tell them apart."""
    want = reference.ncc_predict(z, centers)
    got = got.numpy()
    np.testing.assert_array_equal(got == -1, want == -1)
    rows = np.flatnonzero(got != want)
    d2 = reference.squared_distances(z[rows], centers)
    gap = d2[np.arange(len(rows)), got[rows]] - d2[np.arange(len(rows)), want[rows]]
    assert (gap <= 1e-14 * z.shape[1] * d2.min(1, initial=np.inf)).all()


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs())
def test_equals_reference(backend, data):
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    with ssk.use_backend(backend):
        for centers in (m, m.means):
            exact = m.centers() if centers is m else centers
            got = ssk.ncc_predict(data.z, centers)
            assert got.dtype == torch.int64
            assert_nearest(got, data.exact(), exact.double().numpy())
        accuracy = ssk.ncc_accuracy(data.z, data.labels, m)
    want = reference.ncc_accuracy(data.exact(), data.labels.numpy(), m.centers().numpy())
    np.testing.assert_allclose(float(accuracy), want, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lowest_class(backend):
    centers = torch.tensor([[torch.nan, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    with ssk.use_backend(backend):
        assert ssk.ncc_predict(torch.tensor([[0.0, 3.0], [2.0, 0.0]]), centers).tolist() == [1, 1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_rows_and_centers_that_are_not_finite(backend, precision):
    z = torch.tensor([[torch.nan, 0.0], [torch.inf, 1.0], [5.0, 5.0]])
    labels = torch.tensor([0, 1, 1])
    with ssk.use_backend(backend):
        centers = torch.tensor([[0.0, 0.0], [4.0, 4.0]])
        assert ssk.ncc_predict(z, centers, precision=precision).tolist() == [-1, -1, 1]
        assert float(ssk.ncc_accuracy(z, labels, centers, precision=precision)) == pytest.approx(
            1 / 3
        )
        none = torch.full((2, 2), torch.nan)
        assert ssk.ncc_predict(z, none, precision=precision).tolist() == [-1, -1, -1]


def test_accuracy_skips_unlabelled_rows():
    z = torch.tensor([[0.0], [1.0], [10.0]])
    centers = torch.tensor([[0.0], [10.0]])
    assert float(ssk.ncc_accuracy(z, torch.tensor([0, -100, 0]), centers)) == 0.5
    assert float(ssk.ncc_accuracy(z, torch.tensor([0, 9, 1]), centers, ignore_index=9)) == 1.0
    assert ssk.ncc_accuracy(z, torch.full((3,), -100), centers).isnan()


def test_numpy_in_numpy_out():
    data = labelled(40, 5, 3)
    centers = ssk.class_means(data.z.numpy(), data.labels.numpy(), 3)
    got = ssk.ncc_predict(data.z.numpy(), centers)
    assert isinstance(got, np.ndarray) and got.dtype == np.int64
    accuracy = ssk.ncc_accuracy(data.z.numpy(), data.labels.numpy(), centers)
    assert isinstance(accuracy, np.float64)
    assert accuracy == (got == data.labels.numpy()).mean()


def test_compiles_without_graph_breaks():
    data = labelled(64, 8, 5)
    centers = ssk.class_means(data.z, data.labels, 5)
    fn = torch.compile(
        lambda z: ssk.ncc_predict(z, centers) + 1, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(fn(data.z), ssk.ncc_predict(data.z, centers) + 1)


def test_operator_registration():
    data = labelled(20, 4, 3)
    centers = ssk.class_means(data.z, data.labels, 3)
    torch.library.opcheck(torch.ops.sslkernels.nearest_center.default, (data.z, centers, True))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"centers": torch.zeros(2, 4)}, ValueError, r"centers: expected 3 columns.*got \[2, 4\]"),
        ({"centers": torch.zeros(2)}, ValueError, r"centers: expected shape \[N, D\], got \[2\]"),
        ({"z": torch.zeros(4, 3, dtype=torch.int64)}, TypeError, "z: expected float16"),
        ({"precision": "bf16"}, ValueError, "precision: expected one of.*got 'bf16'"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, ValueError, r"row 2 holds 2, outside \[0, 2\)"),
        ({"labels": torch.tensor([0, 1])}, ValueError, r"labels: expected shape \[4\]"),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, match):
    args = {
        "z": torch.zeros(4, 3),
        "labels": torch.zeros(4, dtype=torch.int64),
        "centers": torch.zeros(2, 3),
    }
    with pytest.raises(error, match=match):
        ssk.ncc_accuracy(**(args | change))


@pytest.mark.parametrize("backend", BACKENDS)
def test_distances_beyond_float64_leave_the_lowest_usable_class(backend):
    z = torch.tensor([[1e200, 0.0]], dtype=torch.float64)
    centers = torch.tensor([[torch.nan, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    with ssk.use_backend(backend):
        assert ssk.ncc_predict(z, centers).tolist() == [1]
    assert reference.ncc_predict(z, centers).tolist() == [1]
