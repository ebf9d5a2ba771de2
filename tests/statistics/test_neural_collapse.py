import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels import reference
from sslkernels.reference.neural_collapse import neural_collapse as reference_neural_collapse
from sslkernels.statistics import _rows
from tests.inputs import Labelled, labelled, labelled_inputs


def sensitivity(data: Labelled) -> float:
    """How much NC1 moves, relatively, when class means move by a rounding of the working precision.

    The class means come from float32 differences to a shift near the class (float64 for float64
    data), and NC1 divides by the squared singular values of the centered means.
    """
    m = reference.class_moments(data.exact(), data.labels.numpy(), data.num_classes)
    means = m.means[m.counts > 0]
    if len(means) < 2:
        return 0.0
    s = np.linalg.svd(means - means.mean(0), compute_uv=False)
    if s[0] < 1e-12 * np.abs(means).max(initial=1.0):
        return np.inf
    s = s[: min(len(means) - 1, means.shape[1])]
    if (s < 1e-5 * s[0]).any():
        return np.inf  # near the rank's cut, where one rounding adds or drops a direction
    spread = np.abs(data.exact() - np.median(data.exact(), axis=0)).max() + 2 * s[0]
    eps = np.finfo(np.float64 if data.z.dtype == torch.float64 else np.float32).eps
    rounding = eps * spread + 4e-16 * np.abs(means).max()
    return 8 * rounding * np.sqrt(means.size) / s[-1] + 1e-14 * (s[0] / s[-1]) ** 2


def assert_collapse(got: ssk.NeuralCollapse, want, data: Labelled) -> None:
    slack = sensitivity(data)
    for name in ("nc1", "nc2_norms", "nc2_angles", "nc3"):
        a, b = getattr(got, name), getattr(want, name)
        if a is None or b is None:
            assert a is b
        elif slack < 1e-2:
            np.testing.assert_allclose(float(a), b, rtol=slack, atol=slack, err_msg=name)
    assert (got.nc4 is None) == (want.nc4 is None)


@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs(), double=st.booleans())
def test_equals_reference(data, double):
    if double:
        data = Labelled(data.z.double(), data.labels, data.num_classes)
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(data.num_classes, data.z.shape[1], generator=g)
    got = ssk.neural_collapse(data.z, data.labels, data.num_classes, weight=weight)
    want = reference_neural_collapse(
        data.exact(), data.labels.numpy(), data.num_classes, weight=weight.numpy()
    )
    assert_collapse(got, want, data)


@settings(max_examples=40, deadline=None)
@given(data=labelled_inputs(), cuts=st.lists(st.integers(0, 70), max_size=4))
def test_batches_merges_and_the_scatter_matrix_agree(data, cuts):
    edges = [0, *sorted(min(c, len(data.z)) for c in cuts), len(data.z)]
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    scatter = ssk.PooledScatter.empty(data.num_classes, data.z.shape[1])
    passes = [ssk.NeuralCollapsePass(m), ssk.NeuralCollapsePass(m)]
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        passes[k % 2].update(data.z[a:b], data.labels[a:b])
        scatter.update(data.z[a:b], data.labels[a:b])
    streamed = passes[0].merge(passes[1]).compute()
    whole = ssk.neural_collapse(data.z, data.labels, data.num_classes)
    assert_collapse(streamed, whole, data)
    assert_collapse(ssk.neural_collapse(scatter), whole, data)


def test_known_values():
    # A simplex of three classes with isotropic noise of variance 1/4 per axis: M has singular
    # values sqrt(3/2), so NC1 = 2 (1/4) / (3/2).
    angles = torch.arange(3, dtype=torch.float64) * (2 * torch.pi / 3)
    means = torch.stack([angles.cos(), angles.sin()], 1) + 7e5
    axes = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64) / 2**0.5
    z = (means.unsqueeze(1) + axes).reshape(-1, 2)
    labels = torch.arange(3).repeat_interleave(4)
    nc = ssk.neural_collapse(z, labels, 3, weight=(means - 7e5) * 3, bias=-3 * 7e5 * means.sum(1))
    assert float(nc.nc1) == pytest.approx(1 / 3, rel=1e-8)
    assert float(nc.nc2_norms) == pytest.approx(0, abs=1e-9)
    assert float(nc.nc2_angles) == pytest.approx(0, abs=1e-9)
    assert float(nc.nc3) == pytest.approx(0, abs=1e-9)


def test_classifier_disagreement():
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0], [11.0, 0.0], [torch.inf, 0.0]])
    labels = torch.tensor([0, 0, 1, 1, -100])
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    agree = ssk.neural_collapse(z, labels, 2, weight=weight, bias=torch.tensor([5.0, 0.0]))
    assert float(agree.nc4) == 0
    # The boundary at 10 gives the row at 9 to class 0, and the bias decides it.
    shifted = ssk.neural_collapse(z, labels, 2, weight=weight, bias=torch.tensor([10.0, 0.0]))
    assert float(shifted.nc4) == 0.25
    third = ssk.neural_collapse(
        z, labels, 3, weight=torch.eye(3, 2), bias=torch.tensor([0.0, 0, 99])
    )
    assert float(third.nc4) == 1.0  # a class without rows is never the nearest center


def test_fewer_than_two_classes_and_coinciding_means():
    z = torch.randn(5, 3)
    one = ssk.neural_collapse(z, torch.zeros(5, dtype=torch.int64), 4, weight=torch.ones(4, 3))
    assert all(v.isnan() for v in one[:4]) and float(one.nc4) == 0
    none = ssk.neural_collapse(z, torch.full((5,), -100), 2)
    assert all(v.isnan() for v in none[:3])
    same = torch.tensor([[-1.0], [1.0], [-2.0], [2.0]]) + 1e6
    assert ssk.neural_collapse(same, torch.tensor([0, 0, 1, 1]), 2).nc1.isnan()


@pytest.mark.parametrize("num_classes, dim", [(20, 32), (33, 32), (90, 32)])
@pytest.mark.parametrize("spread", [1.0, 1e2, 1e4, 1e7])
def test_class_means_of_any_condition(num_classes, dim, spread):
    g = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -np.log10(spread), dim, dtype=torch.float64)
    means = torch.randn(num_classes, dim, generator=g, dtype=torch.float64) * scales
    noise = torch.randn(num_classes, 3, dim, generator=g, dtype=torch.float64)
    z = (means.unsqueeze(1) + noise - noise.mean(1, keepdim=True)).flatten(0, 1)
    labels = torch.arange(num_classes).repeat_interleave(3)
    scatter = ssk.PooledScatter.empty(num_classes, dim, dtype=torch.float64).update(z, labels)
    want = ssk.neural_collapse(z, labels, num_classes).nc1  # by singular values
    torch.testing.assert_close(
        ssk.neural_collapse(scatter).nc1, want, rtol=1e-13 * spread + 1e-13, atol=0
    )


def test_a_row_that_is_not_finite_makes_it_nan():
    data = labelled(40, 6, 3)
    data.z[3, 1] = torch.nan
    nc = ssk.neural_collapse(data.z, data.labels, 3)
    assert all(v.isnan() for v in nc[:3])


def test_blocks_do_not_change_the_result(monkeypatch):
    data = labelled(300, 12, 20, ignored=0.2)
    weight = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    whole = ssk.neural_collapse(data.z, data.labels, 20, weight=weight)
    monkeypatch.setattr(_rows, "BLOCK", 7)
    for a, b in zip(
        ssk.neural_collapse(data.z, data.labels, 20, weight=weight), whole, strict=True
    ):
        torch.testing.assert_close(a, b)


def test_numpy_and_repetition():
    data = labelled(100, 8, 5)
    got = ssk.neural_collapse(data.z.numpy(), data.labels.numpy(), 5)
    assert isinstance(got.nc1, np.float64) and got.nc3 is None
    again = ssk.neural_collapse(data.z.numpy(), data.labels.numpy(), 5)
    assert got == again


def test_class_moments_alone():
    data = labelled(60, 5, 4)
    weight = torch.randn(4, 5, dtype=torch.float64)
    got = ssk.neural_collapse(ssk.class_moments(data.z, data.labels, 4), weight=weight)
    want = ssk.neural_collapse(data.z, data.labels, 4, weight=weight)
    assert got == want._replace(nc1=None, nc4=None)


def test_state_round_trip_and_rows_missing(tmp_path):
    data = labelled(60, 5, 4)
    m = ssk.class_moments(data.z, data.labels, 4)
    half = ssk.NeuralCollapsePass(m).update(data.z[:30], data.labels[:30])
    with pytest.raises(ValueError, match="has seen 30 labelled rows, the moments hold 60"):
        half.compute()
    torch.save(half.state_dict(), tmp_path / "pass.pt")
    again = ssk.NeuralCollapsePass(m).load_state_dict(torch.load(tmp_path / "pass.pt"))
    half.update(data.z[30:], data.labels[30:])
    assert again.update(data.z[30:], data.labels[30:]).compute() == half.compute()
    with pytest.raises(ValueError, match="state: lacks 'along'"):
        again.load_state_dict({"rows": torch.tensor(1)})
    with pytest.raises(TypeError, match="other: expected NeuralCollapsePass, got int"):
        again.merge(3)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"weight": torch.zeros(3, 2)}, ValueError, r"weight: expected shape \[2, 3\]"),
        ({"weight": torch.zeros(2, 3).long()}, TypeError, "weight: expected float16"),
        ({"bias": torch.zeros(2)}, ValueError, "bias: expected a weight"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, ValueError, "bias: expected 2"),
        ({"labels": torch.tensor([0, 5, 1, 0])}, ValueError, "labels: row 1 holds 5"),
        ({"labels": None}, ValueError, "labels, num_classes: needed"),
        ({"num_classes": 0}, ValueError, "num_classes: expected a positive int"),
        ({"z": ssk.ClassMoments.empty(2, 3)}, ValueError, "z holds its own"),
        ({"z": [[0.0]]}, TypeError, "z: expected a torch tensor"),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, match):
    args = {"z": torch.zeros(4, 3), "labels": torch.tensor([0, 1, 1, 0]), "num_classes": 2}
    with pytest.raises(error, match=match):
        ssk.neural_collapse(**(args | change))
    if "weight" in change and error is ValueError and "bias" not in change:
        with pytest.raises(error, match=match):
            ssk.NeuralCollapsePass(ssk.ClassMoments.empty(2, 3), **change)


@pytest.mark.parametrize(
    ("classes", "dim", "shrink"), [(8, 20, 1.0), (30, 12, 1.0), (8, 20, 1e-5), (8, 20, 1e-9)]
)
def test_from_scatter_whatever_the_condition_of_the_means(classes, dim, shrink):
    """The last direction among the means shrinks, until Cholesky gives way to singular values."""
    g = torch.Generator().manual_seed(3)
    means = torch.randn(classes, dim, generator=g, dtype=torch.float64)
    u, s, v = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    s[min(classes - 1, dim) - 1] *= shrink
    means = 7 + (u * s) @ v
    labels = torch.arange(40 * classes) % classes
    z = means[labels] + 0.1 * torch.randn(len(labels), dim, generator=g, dtype=torch.float64)
    scatter = ssk.PooledScatter.empty(classes, dim, dtype=torch.float64).update(z, labels)
    want = reference_neural_collapse(z.numpy(), labels.numpy(), classes).nc1
    assert float(ssk.neural_collapse(scatter).nc1) == pytest.approx(float(want), rel=1e-6)
