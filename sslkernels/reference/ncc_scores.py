"""Top-k, per-class and leave-one-out NCC in float64 NumPy: row by row, each mean made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sslkernels.reference.class_moments import ClassMoments
from sslkernels.reference.ncc import squared_distances


class NCCScores(NamedTuple):
    top_k: np.ndarray
    per_class: np.ndarray
    leave_one_out: np.float64 | None


def ncc_scores(
    z: Any,
    labels: Any,
    centers: Any,
    *,
    top_k: Sequence[int] = (1, 5),
    ignore_index: int = -100,
) -> NCCScores:
    z, labels = np.asarray(z, dtype=np.float64), np.asarray(labels)
    z, labels = z[labels != ignore_index], labels[labels != ignore_index]
    moments = centers if isinstance(centers, ClassMoments) else None
    means = np.asarray(centers if moments is None else moments.means, dtype=np.float64)
    top = np.zeros((len(z), len(top_k)))
    first, alone = np.zeros(len(z)), np.zeros(len(z))
    for i, (row, y) in enumerate(zip(z, labels, strict=True)):
        if np.isfinite(row).all() and np.isfinite(means[y]).all():
            order = np.argsort(squared_distances(row[None], means)[0], kind="stable").tolist()
            first[i] = order[0] == y
            top[i] = [y in order[:k] for k in top_k]
            if moments is not None and moments.counts[y] > 1:
                n, without = moments.counts[y], means.copy()
                without[y] = (n * means[y] - row) / (n - 1)
                alone[i] = squared_distances(row[None], without)[0].argmin() == y
    nan = np.float64(np.nan)
    per_class = [
        first[labels == c].mean() if (labels == c).any() else nan for c in range(len(means))
    ]
    return NCCScores(
        top.mean(0) if len(z) else np.full(len(top_k), nan),
        np.array(per_class),
        None if moments is None else alone.mean() if len(z) else nan,
    )
