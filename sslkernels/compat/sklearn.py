"""A nearest class-center classifier for scikit-learn that learns from batches.

:class:`NearestClassCenter` is ``sklearn.neighbors.NearestCentroid`` with the Euclidean metric, and
``partial_fit`` besides (scikit-learn#12952). Needs scikit-learn 1.6: ``pip install
sslkernels[sklearn]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sslkernels import _checks
from sslkernels.numerics.means import around_their_mean, squared_distances
from sslkernels.statistics.class_moments import ClassMoments
from sslkernels.statistics.ncc import ncc_predict

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "sslkernels.compat.sklearn needs scikit-learn 1.6 or later: pip install sslkernels[sklearn]"
    ) from error

_DTYPES = [np.float64, np.float32, np.float16]  # taken as they are; others become the first
_BLOCK = 65536  # rows whose distances are computed at a time


class NearestClassCenter(ClassifierMixin, BaseEstimator):
    """Classify by the nearest class center in Euclidean distance; ties to the lowest class.

    Centers and spreads of classes are kept as :class:`sslkernels.ClassMoments`, which merge
    exactly: batches given to ``partial_fit`` add up, in any order, to what ``fit`` makes of all
    rows at once, up to float64 rounding.

    Args:
        precision: ``"exact"`` for the argmin of float64 distances, ``"fast"`` for one pass in low
            precision that may pick a center that is only nearly the nearest: as
            :func:`sslkernels.ncc_predict`.

    Attributes:
        classes_: [C] the labels, sorted.
        centroids_: float64 [C, D] the class means; NaN for a class without rows so far, which is
            never predicted.
        class_counts_: int64 [C] rows of each class.
        moments_: the ClassMoments of all rows, such as :func:`sslkernels.cdnv` takes.
        n_features_in_: D.
        feature_names_in_: [D] names of the columns, if X had them.

    Example:
        >>> import numpy as np
        >>> from sslkernels.compat.sklearn import NearestClassCenter
        >>> X, y = np.array([[0.0], [2.0], [7.0], [9.0]]), np.array(["a", "a", "b", "b"])
        >>> clf = NearestClassCenter().fit(X, y)
        >>> clf.predict([[4.0], [5.0]]).tolist(), clf.centroids_.ravel().tolist()
        (['a', 'b'], [1.0, 8.0])
        >>> clf = NearestClassCenter()
        >>> for batch in (slice(0, 1), slice(1, 4)):
        ...     clf = clf.partial_fit(X[batch], y[batch], classes=["a", "b"])
        >>> clf.centroids_.ravel().tolist(), clf.score(X, y)
        ([1.0, 8.0], 1.0)
    """

    def __init__(self, precision: str = "exact") -> None:
        self.precision = precision

    def fit(self, X: Any, y: Any) -> NearestClassCenter:
        """Learn the centers of the classes in y, and forget what was learnt before.

        Args:
            X: [N, D] rows: float16, float32 and float64 are read as they are, others as float64.
            y: [N] labels: integers, strings or any that NumPy sorts.
        """
        _checks.one_of(self.precision, "precision", ("exact", "fast"))
        X, y = validate_data(self, X, y, dtype=_DTYPES)
        check_classification_targets(y)
        classes, index = np.unique(y, return_inverse=True)
        self._start(classes, X.shape[1])
        return self._add(X, index)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> NearestClassCenter:
        """Add a batch of rows to what was learnt before.

        Args:
            X: [N, D] rows, as for ``fit``.
            y: [N] labels.
            classes: [C] every label there will be; needed at the first call, before any ``fit``,
                and if given again, the same.

        Raises:
            ValueError: ``classes`` is missing at the first call or changes later; y holds a label
                that is not among them.
        """
        _checks.one_of(self.precision, "precision", ("exact", "fast"))
        first = not hasattr(self, "classes_")
        if first and classes is None:
            raise ValueError("classes: expected every label there will be at the first partial_fit")
        if classes is not None:
            classes = unique_labels(classes)
            if not first and not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"classes: expected those of the first call, {self.classes_}, got {classes}"
                )
        X, y = validate_data(self, X, y, dtype=_DTYPES, reset=first)
        check_classification_targets(y)
        known = classes if first else self.classes_
        strange = np.setdiff1d(y, known)
        if len(strange):
            raise ValueError(
                f"y: expected labels among classes {known}, got {strange[:1].tolist()[0]!r}"
            )
        if first:
            self._start(known, X.shape[1])
        return self._add(X, np.searchsorted(known, y))

    def predict(self, X: Any) -> np.ndarray:
        """[N] the label of the nearest center of every row of X [N, D]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_DTYPES, reset=False)
        index = ncc_predict(X, self.moments_, precision=self.precision)
        if len(index) and index.min() < 0:
            raise ValueError("X: no center is finite: what was fitted overflows float64")
        return self.classes_[index]

    def decision_function(self, X: Any) -> np.ndarray:
        """The negative squared distances of the rows of X [N, D] from the centers, in float64.

        Returns:
            [N, C]; -inf for classes without rows. For two classes [N], positive where the second
            one's center is nearer. ``predict`` is their argmax, up to the rounding of ties.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_DTYPES, reset=False)
        centers = self.moments_.centers()
        filled = self.moments_.counts > 0
        origin = centers[filled].mean(0)
        near = around_their_mean(centers[filled])
        scores = np.full((len(X), len(self.classes_)), -np.inf)
        for start in range(0, len(X), _BLOCK):
            rows = (
                torch.as_tensor(X[start : start + _BLOCK], dtype=torch.float64, device="cpu")
                - origin
            )
            scores[start : start + _BLOCK, filled.numpy()] = -squared_distances(rows, near).numpy()
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    @property
    def centroids_(self) -> np.ndarray:
        return self._fitted("centroids_").centers().numpy()

    @property
    def class_counts_(self) -> np.ndarray:
        return self._fitted("class_counts_").counts.numpy()

    def _fitted(self, name: str) -> ClassMoments:
        if not hasattr(self, "moments_"):  # what hasattr and check_is_fitted look at
            raise AttributeError(f"{name}: this {type(self).__name__} is not fitted yet")
        return self.moments_

    def _start(self, classes: np.ndarray, dim: int) -> None:
        self.classes_ = classes
        self.moments_ = ClassMoments.empty(len(classes), dim, dtype=torch.float64, device="cpu")

    def _add(self, X: np.ndarray, index: np.ndarray) -> NearestClassCenter:
        self.moments_.update(X, index)
        return self
