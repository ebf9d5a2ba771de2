"""The estimator: scikit-learn's own checks, and its NearestCentroid."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import sslkernels as ssk
from sslkernels.compat.sklearn import NearestClassCenter
from tests.inputs import labelled


@parametrize_with_checks([NearestClassCenter(), NearestClassCenter(precision="fast")])
def test_estimator_checks(estimator, check):
    check(estimator)


def cut(n, seed):
    """Batches of ragged sizes that cover n rows."""
    edges = np.sort(np.random.default_rng(seed).integers(0, n, size=4))
    return [slice(a, b) for a, b in zip([0, *edges], [*edges, n], strict=True) if a < b]


def data(dtype=np.float64, offset=0.0, classes=7):
    case = labelled(150, 12, classes, seed=3, dtype=torch.float64, offset=offset)
    names = np.array([f"class {c}" for c in range(classes)])
    return case.z.numpy().astype(dtype), names[case.labels.numpy()], names


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_predicts_as_nearest_centroid(dtype, offset):
    X, y, _ = data(dtype, offset)
    ours, theirs = NearestClassCenter().fit(X, y), NearestCentroid().fit(X.astype(np.float64), y)
    np.testing.assert_allclose(ours.centroids_, theirs.centroids_, rtol=1e-6)
    assert ours.centroids_.dtype == np.float64
    assert ours.classes_.tolist() == theirs.classes_.tolist()
    assert ours.class_counts_.tolist() == np.unique(y, return_counts=True)[1].tolist()
    # The same centers: what is compared is the prediction alone.
    theirs.centroids_ = ours.centroids_
    assert ours.predict(X).tolist() == theirs.predict(X.astype(np.float64)).tolist()
    assert ours.score(X, y) == np.mean(ours.predict(X) == y)


def test_digits():
    X, y = load_digits(return_X_y=True)
    for wrap in (lambda clf: clf, lambda clf: make_pipeline(StandardScaler(), clf)):
        ours, theirs = (
            cross_val_score(wrap(c()), X, y) for c in (NearestClassCenter, NearestCentroid)
        )
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("seed", range(5))
def test_batches_add_up_to_fit(dtype, offset, seed):
    X, y, names = data(dtype, offset)
    whole = NearestClassCenter().fit(X, y)
    parts = NearestClassCenter()
    for rows in cut(len(X), seed):
        assert parts.partial_fit(X[rows], y[rows], classes=names[::-1]) is parts
    assert parts.class_counts_.tolist() == whole.class_counts_.tolist()
    # Float32 rows are added up in float32 in short runs, around a shift near their class.
    atol = {np.float64: 1e-14, np.float32: 2e-6}[dtype]
    np.testing.assert_allclose(parts.centroids_, whole.centroids_, rtol=1e-15, atol=atol)
    assert np.mean(parts.predict(X) == whole.predict(X)) > 0.99


def test_partial_fit_continues_fit():
    X, y, _ = data()
    both = NearestClassCenter().fit(X[:80], y[:80]).partial_fit(X[80:], y[80:])
    np.testing.assert_allclose(both.centroids_, NearestClassCenter().fit(X, y).centroids_)
    both.fit(X[:80], y[:80])  # and fit forgets
    assert both.class_counts_.sum() == 80


def test_class_without_rows_is_never_predicted():
    clf = NearestClassCenter().partial_fit([[0.0], [4.0]], [1, 3], classes=[0, 1, 3])
    assert np.isnan(clf.centroids_[0]).all() and clf.class_counts_.tolist() == [0, 1, 1]
    assert clf.predict([[-5.0], [3.0]]).tolist() == [1, 3]
    assert clf.decision_function([[1.0]]).tolist() == [[-np.inf, -1.0, -9.0]]
    clf = NearestClassCenter().partial_fit([[4.0]], [1], classes=[0, 1])
    assert clf.decision_function([[1.0]]).tolist() == [np.inf]
    assert clf.partial_fit([[0.0]], [0]).decision_function([[1.0], [2.0], [3.0]]).tolist() == [
        *(-8.0, 0.0, 8.0)
    ]
    assert clf.predict([[2.0]]) == [0]  # a tie


@pytest.mark.parametrize("classes", [2, 7])
def test_decision_function_is_of_squared_distances(classes):
    X, y, _ = data(np.float32, 1e3, classes)
    clf = NearestClassCenter().fit(X, y)
    d2 = ((X[:, None].astype(np.float64) - clf.centroids_) ** 2).sum(2)
    want = d2[:, 0] - d2[:, 1] if classes == 2 else -d2
    np.testing.assert_allclose(clf.decision_function(X), want, rtol=1e-9, atol=1e-9)


def test_names_of_columns_and_moments():
    X, y, _ = data()
    frame = pd.DataFrame(X, columns=[f"f{j}" for j in range(X.shape[1])])
    clf = NearestClassCenter().fit(frame, y)
    assert clf.feature_names_in_.tolist() == frame.columns.tolist() and clf.n_features_in_ == 12
    assert float(ssk.cdnv(clf.moments_)) > 0
    again = pickle.loads(pickle.dumps(clf))
    assert again.predict(frame).tolist() == clf.predict(frame).tolist()
    assert not hasattr(clone(clf), "centroids_") and not hasattr(clone(clf), "classes_")


def test_another_default_device():
    X, y, names = data()
    want = NearestClassCenter().fit(X, y)
    with torch.device("meta"):
        clf = NearestClassCenter().partial_fit(X, y, classes=names)
        assert clf.predict(X).tolist() == want.predict(X).tolist()
        np.testing.assert_allclose(clf.decision_function(X), want.decision_function(X))


def test_bad_input():
    X, y, names = data()
    with pytest.raises(ValueError, match="classes: expected every label"):
        NearestClassCenter().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y: expected labels among classes .* got 'class 6'"):
        NearestClassCenter().partial_fit(X, y, classes=names[:-1])
    clf = NearestClassCenter().partial_fit(X, y, classes=names)
    with pytest.raises(ValueError, match="classes: expected those of the first call"):
        clf.partial_fit(X, y, classes=names[:-1])
    with pytest.raises(ValueError, match="precision: expected one of 'exact', 'fast', got 'low'"):
        NearestClassCenter(precision="low").fit(X, y)
    with pytest.raises(ValueError, match="no center is finite"):
        NearestClassCenter().fit([[1.7e308], [-1.7e308]], [0, 0]).predict([[1.0]])


def test_without_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None; import sslkernels.compat.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError" in done.stderr and "pip install sslkernels[sklearn]" in done.stderr
