r"""Few-shot nearest class-center accuracy.

The transfer setting of Galanti, György, Hutter, "On the role of neural collapse in transfer
learning" (arXiv 2112.15121): the center of a class is the mean of m of its training rows, drawn at
random, and a row is given the class of the nearest center. Repeated with other draws; mean and
standard deviation are reported.

Draws come from NumPy's PCG64 seeded with ``(seed, repeat)``: the same rows on every machine, device
and backend. Each repeat costs one small pass of class moments and one pass of nearest centers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from sslkernels import _checks
from sslkernels._gate import gated
from sslkernels.passes.nearest_center import nearest_center
from sslkernels.statistics import _rows
from sslkernels.statistics.class_moments import ClassMoments, class_moments


class FewShot(NamedTuple):
    """float64 tensors (NumPy for NumPy input).

    Attributes:
        mean: 0-d, mean accuracy over the repeats.
        std: 0-d, standard deviation over the repeats (divisor repeats - 1); NaN for one repeat.
        accuracies: [repeats].
    """

    mean: torch.Tensor
    std: torch.Tensor
    accuracies: torch.Tensor


@gated
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
    """Accuracy of nearest class centers made from ``shots`` random training rows per class.

    Args:
        z: [N, D] training embeddings, tensor or NumPy array: fp16, bf16, fp32 or fp64.
        labels: [N] integers in ``[0, num_classes)`` or ``ignore_index``.
        num_classes: C.
        shots: m, rows drawn per class without replacement; a class with fewer gives all it has.
        repeats: how many draws.
        seed: of the draws, not negative.
        z_test, labels_test: rows to be classified; the training rows that were not drawn if left
            out. Test rows of a class without training rows count as wrong.
        precision: as in :func:`ncc_predict`.
        ignore_index: rows with this label are skipped.

    Returns:
        :class:`FewShot`; NaN where no row is left to be classified.

    Raises:
        ValueError: wrong shape or device, or a label out of range, naming its first row and value.
        TypeError: wrong dtype.

    Example:
        >>> import torch, sslkernels as ssk
        >>> z = torch.tensor([[0.], [1.], [2.], [7.], [8.], [9.]])
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> ssk.few_shot_ncc(z, labels, 2, shots=1, repeats=3).accuracies.tolist()
        [1.0, 1.0, 1.0]
    """
    size = _checks.positive_int(num_classes, "num_classes")
    shots = _checks.positive_int(shots, "shots")
    repeats = _checks.positive_int(repeats, "repeats")
    exact = _checks.one_of(precision, "precision", ("exact", "fast")) == "exact"
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed: expected an int that is not negative, got {seed!r}")
    if (z_test is None) != (labels_test is None):
        raise ValueError("z_test, labels_test: go together")
    rows, classes = _rows.checked(z, labels, size, ignore_index)
    test, target = rows, classes
    if z_test is not None:
        test, target = _rows.checked(z_test, labels_test, size, ignore_index, suffix="_test")
        if test.shape[1] != rows.shape[1]:
            raise ValueError(
                f"z_test: expected {rows.shape[1]} columns to match z, got {list(test.shape)}"
            )
        if test.device != rows.device:
            raise ValueError(f"z_test: is on {test.device}, z is on {rows.device}")
    known = classes.cpu().numpy()
    accuracies = []
    for repeat in range(repeats):
        drawn = torch.from_numpy(draw(known, shots, (int(seed), repeat))).to(rows.device)
        m = class_moments(rows[drawn], classes[drawn], size)
        assert isinstance(m, ClassMoments)
        asked = target >= 0
        if z_test is None:
            asked[drawn] = False
        hits = (nearest_center(test, m.centers(), exact) == target) & asked
        accuracies.append(hits.sum().double() / asked.sum())
    shares = torch.stack(accuracies)
    std = shares.std() if repeats > 1 else shares.new_full((), torch.nan)
    return _rows.results(FewShot(shares.mean(), std, shares), z)


def draw(classes: np.ndarray, shots: int, seed: tuple[int, int]) -> np.ndarray:
    """Ascending indices of at most ``shots`` rows of each class, uniform without replacement.

    ``classes`` is int64 [N], negative where a row has no label.
    """
    order = np.random.default_rng(seed).permutation(len(classes))
    order = order[classes[order] >= 0]
    order = order[np.argsort(classes[order], kind="stable")]  # classes together, shuffled inside
    _, first, counts = np.unique(classes[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, counts)
    return np.sort(order[place < shots])
