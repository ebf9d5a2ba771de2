"""Class moments in float64 NumPy: two passes over each class, plain on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class ClassMoments:
    """Counts int64 [C], means float64 [C, D] (NaN where empty), m2 float64 [C]."""

    def __init__(self, counts: np.ndarray, means: np.ndarray, m2: np.ndarray) -> None:
        self.counts, self.means, self.m2 = counts, means, m2

    @property
    def num_classes(self) -> int:
        return len(self.counts)

    @property
    def variances(self) -> np.ndarray:
        return self.variance(ddof=0)

    def variance(self, *, ddof: int = 0) -> np.ndarray:
        free = np.where(self.counts > ddof, self.counts - ddof, np.nan)
        return self.m2 / free


def class_moments(
    z: Any, labels: Any, num_classes: int | Sequence[int], *, ignore_index: int = -100
) -> ClassMoments | tuple[ClassMoments, ...]:
    z, labels = np.asarray(z, dtype=np.float64), np.asarray(labels)
    if labels.ndim == 2:
        sizes = list(num_classes)  # type: ignore[arg-type]
        return tuple(_one(z, row, c, ignore_index) for row, c in zip(labels, sizes, strict=True))
    return _one(z, labels, int(num_classes), ignore_index)  # type: ignore[arg-type]


def _one(z: np.ndarray, labels: np.ndarray, num_classes: int, ignore_index: int) -> ClassMoments:
    used = labels != ignore_index
    bad = used & ((labels < 0) | (labels >= num_classes))
    if bad.any():
        raise ValueError(f"labels: row {bad.argmax()} holds {labels[bad.argmax()]}")
    counts = np.zeros(num_classes, dtype=np.int64)
    means = np.full((num_classes, z.shape[1]), np.nan)
    m2 = np.zeros(num_classes)
    for c in range(num_classes):
        rows = z[used & (labels == c)]
        if len(rows):
            counts[c] = len(rows)
            # The sums run over differences to one row, so that an offset costs no digits.
            means[c] = rows[0] + (rows - rows[0]).mean(0)
            m2[c] = ((rows - means[c]) ** 2).sum()
    return ClassMoments(counts, means, m2)


def class_means(z: Any, labels: Any, num_classes: int, *, ignore_index: int = -100) -> np.ndarray:
    m = class_moments(z, labels, num_classes, ignore_index=ignore_index)
    assert isinstance(m, ClassMoments)
    return m.means
