"""Few-shot NCC in float64 NumPy: the same shuffle of the rows, then class by class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sslkernels.reference.class_moments import class_means
from sslkernels.reference.ncc import ncc_accuracy


class FewShot(NamedTuple):
    mean: np.float64
    std: np.float64
    accuracies: np.ndarray


def few_shot_ncc(
    z: Any,
    labels: Any,
    num_classes: int,
    *,
    shots: int,
    repeats: int = 10,
    seed: int = 0,
    z_test: Any = None,
    labels_test: Any = None,
    precision: str = "exact",
    ignore_index: int = -100,
) -> FewShot:
    z, labels = np.asarray(z, dtype=np.float64), np.asarray(labels)
    shares = np.zeros(repeats)
    for repeat in range(repeats):
        order = np.random.default_rng((seed, repeat)).permutation(len(z))
        drawn: list[int] = []
        for c in range(num_classes):
            if c != ignore_index:
                drawn += [i for i in order if labels[i] == c][:shots]
        centers = class_means(z[drawn], labels[drawn], num_classes)
        if z_test is None:
            rest = np.setdiff1d(np.arange(len(z)), drawn)
            asked, target = z[rest], labels[rest]
        else:
            asked, target = z_test, labels_test
        shares[repeat] = ncc_accuracy(asked, target, centers, ignore_index=ignore_index)
    std = shares.std(ddof=1) if repeats > 1 else np.float64(np.nan)
    return FewShot(shares.mean(), std, shares)
