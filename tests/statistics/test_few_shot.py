import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels import reference
from sslkernels.reference.few_shot import few_shot_ncc as reference_few_shot_ncc
from sslkernels.statistics.few_shot import draw
from tests.inputs import labelled, labelled_inputs


def undecided(data, drawn: np.ndarray) -> int:
    """Rows whose two nearest centers are nearer to each other than the means' rounding."""
    labels, z = data.labels.numpy(), data.exact()
    centers = reference.class_means(z[drawn], labels[drawn], data.num_classes)
    d2 = np.sort(reference.squared_distances(z, centers), axis=1)
    if d2.shape[1] < 2 or not len(d2):
        return 0
    eps = np.finfo(np.float64 if data.z.dtype == torch.float64 else np.float32).eps
    spread = np.abs(z - z.mean(0)).max()
    rounding = eps * spread + 4e-16 * np.abs(z).max()
    with np.errstate(invalid="ignore"):
        return int((d2[:, 1] - d2[:, 0] <= 8 * z.shape[1] * rounding * spread).sum())


@settings(max_examples=40, deadline=None)
@given(
    data=labelled_inputs(), shots=st.integers(1, 5), seed=st.integers(0, 99), split=st.booleans()
)
def test_equals_reference(data, shots, seed, split):
    more = {"shots": shots, "repeats": 3, "seed": seed}
    test = {"z_test": data.z[::2], "labels_test": data.labels[::2]} if split else {}
    exact = {"z_test": data.exact()[::2], "labels_test": data.labels.numpy()[::2]} if split else {}
    got = ssk.few_shot_ncc(data.z, data.labels, data.num_classes, **more, **test)
    labels = data.labels.numpy()
    want = reference_few_shot_ncc(data.exact(), labels, data.num_classes, **more, **exact)
    for repeat in range(3):
        drawn = draw(labels, shots, (seed, repeat))
        asked = (labels[::2] >= 0).sum() if split else (labels >= 0).sum() - len(drawn)
        np.testing.assert_allclose(
            float(got.accuracies[repeat]) * asked,
            want.accuracies[repeat] * asked,
            atol=undecided(data, drawn) + 1e-9,
        )
    if np.isfinite(want.accuracies).all():
        np.testing.assert_allclose(float(got.mean), got.accuracies.numpy().mean())
        np.testing.assert_allclose(float(got.std), got.accuracies.numpy().std(ddof=1), atol=1e-15)


def test_draws_are_uniform_without_replacement():
    classes = np.array([0, 1, 1, 1, 2, -1, 1, 2])
    seen = np.zeros(8)
    for repeat in range(600):
        rows = draw(classes, 2, (0, repeat))
        assert (np.diff(rows) > 0).all()
        assert np.bincount(classes[rows], minlength=3).tolist() == [1, 2, 2]
        seen[rows] += 1
    assert seen[[0, 4, 7]].tolist() == [600] * 3 and seen[5] == 0
    assert (np.abs(seen[[1, 2, 3, 6]] - 300) < 60).all()  # 300 +- 12


def test_all_shots_is_the_accuracy_with_all_rows():
    data = labelled(200, 6, 5, separation=0.5, ignored=0.1)
    got = ssk.few_shot_ncc(
        data.z, data.labels, 5, shots=200, repeats=2, z_test=data.z, labels_test=data.labels
    )
    m = ssk.class_moments(data.z, data.labels, 5)
    assert got.accuracies.tolist() == [float(ssk.ncc_accuracy(data.z, data.labels, m))] * 2
    assert got.std == 0
    rest = ssk.few_shot_ncc(data.z, data.labels, 5, shots=200, repeats=1)
    assert rest.mean.isnan() and rest.std.isnan()


def test_more_shots_help_and_seeds_decide():
    data = labelled(3000, 32, 10, separation=0.4)
    one, ten = (ssk.few_shot_ncc(data.z, data.labels, 10, shots=s, repeats=5) for s in (1, 10))
    assert float(ten.mean) > float(one.mean) + 0.1
    again = ssk.few_shot_ncc(data.z.numpy(), data.labels.numpy(), 10, shots=1, repeats=5)
    np.testing.assert_array_equal(again.accuracies, one.accuracies.numpy())
    assert isinstance(again.mean, np.float64)
    other = ssk.few_shot_ncc(data.z, data.labels, 10, shots=1, repeats=5, seed=1)
    assert not torch.equal(other.accuracies, one.accuracies)


def test_test_rows_of_unknown_classes_are_wrong():
    got = ssk.few_shot_ncc(
        torch.zeros(2, 1),
        torch.zeros(2, dtype=torch.int64),
        2,
        shots=1,
        z_test=torch.zeros(4, 1),
        labels_test=torch.tensor([0, 1, 1, 1]),
    )
    assert float(got.mean) == 0.25


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"shots": 0}, ValueError, "shots: expected a positive int, got 0"),
        ({"repeats": 1.5}, TypeError, "repeats: expected an int"),
        ({"seed": -1}, ValueError, "seed: expected an int that is not negative, got -1"),
        ({"z_test": torch.zeros(2, 3)}, ValueError, "z_test, labels_test: go together"),
        ({"labels": torch.tensor([0, 2, 0, 0])}, ValueError, "labels: row 1 holds 2"),
        (
            {"z_test": torch.zeros(1, 3), "labels_test": torch.tensor([7])},
            ValueError,
            "labels_test: row 0 holds 7",
        ),
        (
            {"z_test": torch.zeros(1, 2), "labels_test": torch.tensor([0])},
            ValueError,
            "z_test: expected 3 columns to match z",
        ),
        ({"precision": "half"}, ValueError, "precision: expected one of"),
    ],
)
def test_bad_arguments(change, error, match):
    args = {"z": torch.zeros(4, 3), "labels": torch.tensor([0, 1, 1, 0]), "shots": 1}
    with pytest.raises(error, match=match):
        ssk.few_shot_ncc(num_classes=2, **(args | change))
