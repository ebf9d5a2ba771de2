"""Nearest class-center (NCC) classification.

``argmin_c ||z - mu_c||``, ties to the lowest class. ``precision="exact"`` returns the argmin of the
float64 distances at about the speed of a low-precision product: a first pass finds the centers
within a proven error bound of the best, a second decides among those in float64.
"""

from __future__ import annotations

from typing import Any

import torch

from sslkernels import _checks
from sslkernels._gate import gated
from sslkernels.passes.class_moments import bad_label
from sslkernels.passes.nearest_center import nearest_center
from sslkernels.statistics import _rows
from sslkernels.statistics.class_moments import ClassMoments


@gated
def ncc_predict(z: Any, centers: Any, *, precision: str = "exact") -> Any:
    """The nearest class center of every row.

    Args:
        z: [N, D] embeddings, tensor or NumPy array: fp16, bf16, fp32 or fp64, any strides.
        centers: [C, D] centers, or :class:`ClassMoments` (whose float64 means are used). A center
            that is not finite throughout is an empty class and is never predicted.
        precision: ``"exact"`` for the argmin of float64 distances; ``"fast"`` for one pass in low
            precision (bfloat16 products where the machine has them), which may pick a center that
            is only nearly the nearest.

    Returns:
        int64 [N], a NumPy array if ``z`` is one. -1 for rows that hold NaN or infinity, and for
        every row when there is no usable center.

    Raises:
        ValueError: wrong shape or device, unknown precision.
        TypeError: wrong dtype.

    Example:
        >>> import torch, sslkernels as ssk
        >>> centers = torch.tensor([[0., 0.], [4., 0.]])
        >>> ssk.ncc_predict(torch.tensor([[1., 1.], [3., 1.], [2., 0.]]), centers).tolist()
        [0, 1, 0]
    """
    rows = _checks.embeddings(_checks.as_tensor(z, "z"))
    return _rows.result(_predict(rows, _means(centers, rows), precision), z)


@gated
def ncc_accuracy(
    z: Any, labels: Any, centers: Any, *, precision: str = "exact", ignore_index: int = -100
) -> Any:
    """The share of rows whose nearest class center is that of their label.

    Args:
        z, centers, precision: as in :func:`ncc_predict`.
        labels: [N] integers in ``[0, C)`` or ``ignore_index``.
        ignore_index: rows with this label are left out of the share.

    Returns:
        float64 0-d tensor (a NumPy scalar if ``z`` is a NumPy array); NaN if no row is labelled.
        Rows that hold NaN or infinity count as wrong.

    Raises:
        ValueError: as :func:`ncc_predict`, or a label out of range, naming its first row and value.

    Example:
        >>> import numpy as np, sslkernels as ssk
        >>> z, labels = np.array([[0.0], [1.0], [5.0]]), np.array([0, 0, 1])
        >>> float(ssk.ncc_accuracy(z, labels, ssk.class_means(z, labels, 2)))
        1.0
    """
    rows = _checks.embeddings(_checks.as_tensor(z, "z"))
    means = _means(centers, rows)
    target = _checks.labelings(_checks.as_tensor(labels, "labels"), 1, rows)[0]
    used = target != ignore_index
    size = len(means)
    bad = used & ((target < 0) | (target >= size))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise bad_label("labels", row, int(target[row]), size, ignore_index)
    hits = (_predict(rows, means, precision) == target) & used
    share = hits.sum(dtype=torch.float64) / used.sum()
    return _rows.result(share, z)


def _predict(z: torch.Tensor, means: torch.Tensor, precision: str) -> torch.Tensor:
    exact = _checks.one_of(precision, "precision", ("exact", "fast")) == "exact"
    return nearest_center(z, means, exact)


def _means(centers: Any, z: torch.Tensor) -> torch.Tensor:
    """The centers [C, D], contiguous, that go with rows z [N, D]."""
    if isinstance(centers, ClassMoments):
        c = centers.centers()
    else:
        c = _checks.embeddings(_checks.as_tensor(centers, "centers"), "centers")
        c = c if c.dtype == torch.float64 else c.float()
    if c.shape[1] != z.shape[1]:
        raise ValueError(f"centers: expected {z.shape[1]} columns to match z, got {list(c.shape)}")
    if c.device != z.device:
        raise ValueError(f"centers: is on {c.device}, z is on {z.device}")
    return c.contiguous()
