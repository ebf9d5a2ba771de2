"""Targets that are drawn, or follow from other labels or from embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslkernels import _checks
from sslkernels._optional import needed


def random_labels(num_rows: int, num_classes: int, *, seed: int = 0) -> Tensor:
    """Labels that mean nothing, with classes of equal size (to within one row).

    Args:
        num_rows: N.
        num_classes: C.
        seed: of the draw.

    Returns:
        int64 [N].

    Example:
        >>> import torch
        >>> from sslkernels import targets
        >>> torch.bincount(targets.random_labels(10, 3)).tolist()
        [4, 3, 3]
    """
    rows = _checks.positive_int(num_rows, "num_rows")
    classes = _checks.positive_int(num_classes, "num_classes")
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    return (torch.arange(rows) % classes)[order]


def corrupted(labels: Any, rate: float, *, num_classes: int | None = None, seed: int = 0) -> Tensor:
    """Labels of which a share is replaced by labels of other rows' classes.

    Exactly ``round(rate * N)`` rows are drawn, and each gets a class drawn uniformly from the other
    C - 1. Draws of one seed are nested: the rows replaced at a rate are replaced in the same way at
    every higher one.

    Args:
        labels: [N] integers in ``[0, C)``.
        rate: share of the rows, in [0, 1].
        num_classes: C; by default the largest label + 1.
        seed: of the draw.

    Returns:
        int64 [N].

    Raises:
        ValueError: the rate is not in [0, 1], labels are out of range, or C < 2.

    Example:
        >>> import torch
        >>> from sslkernels import targets
        >>> labels = torch.arange(8) % 2
        >>> (targets.corrupted(labels, 0.25) != labels).sum().item()
        2
    """
    given = _labels(labels)
    classes = int(given.max()) + 1 if num_classes is None else num_classes
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected a share in [0, 1], got {rate}")
    if classes < 2 or int(given.min()) < 0 or int(given.max()) >= classes:
        raise ValueError(
            f"labels: expected values in [0, {classes}) and two classes at least, got "
            f"{int(given.min())} to {int(given.max())}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(given), generator=generator)
    moved = torch.randint(1, classes, (len(given),), generator=generator)
    rows = order[: round(rate * len(given))]
    result = given.clone()
    result[rows] = (given[rows] + moved[rows]) % classes
    return result


def superclasses(labels: Any, parents: Any, *, ignore_index: int = -100) -> Tensor:
    """The superclass of every row: ``parents[labels]``.

    Args:
        labels: [N] integers in ``[0, C)`` or ``ignore_index``.
        parents: [C] integers, the superclass of each class.
        ignore_index: labels that stay as they are.

    Returns:
        int64 [N].

    Raises:
        ValueError: a label has no parent.

    Example:
        >>> import torch
        >>> from sslkernels import targets
        >>> targets.superclasses(torch.tensor([0, 2, 1]), [0, 0, 1]).tolist()
        [0, 1, 0]
    """
    given = _labels(labels)
    above = torch.as_tensor(np.asarray(parents)).to(torch.int64)
    used = given != ignore_index
    if used.any() and not 0 <= int(given[used].min()) <= int(given[used].max()) < len(above):
        raise ValueError(
            f"labels: expected values in [0, {len(above)}), one parent each, got "
            f"{int(given[used].min())} to {int(given[used].max())}"
        )
    return torch.where(used, above[given.clamp(0, len(above) - 1)], ignore_index)


def sample_labels(num_samples: int, views: int) -> Tensor:
    """Sample-level classes: the augmented views of one sample form a class.

    Args:
        num_samples: samples.
        views: augmentations of each, stacked view after view: row ``v * num_samples + i`` is view v
            of sample i.

    Returns:
        int64 [views * num_samples].

    Example:
        >>> from sslkernels import targets
        >>> targets.sample_labels(3, 2).tolist()
        [0, 1, 2, 0, 1, 2]
    """
    samples = _checks.positive_int(num_samples, "num_samples")
    return torch.arange(samples).repeat(_checks.positive_int(views, "views"))


def clusters(z: Any, num_clusters: int, *, seed: int = 0) -> Tensor:
    """The clusters of embeddings: classes that the data itself suggests, at any number of them.

    scikit-learn's ``KMeans`` (k-means++ and the best of four starts); ``pip install scikit-learn``.

    Args:
        z: [N, D] embeddings or inputs, a tensor or an array.
        num_clusters: K.
        seed: of the starts.

    Returns:
        int64 [N].

    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> import torch
        >>> from sslkernels import targets
        >>> found = targets.clusters(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2)
        >>> bool(found[0] == found[1]), bool(found[1] == found[2])
        (True, False)
    """
    cluster = needed("sklearn.cluster", "scikit-learn", "clusters")
    rows = _checks.embeddings(_checks.as_tensor(z, "z"), "z").detach().cpu().double().numpy()
    k = _checks.positive_int(num_clusters, "num_clusters")
    if k > len(rows):
        raise ValueError(f"num_clusters: expected at most {len(rows)}, one per row, got {k}")
    found = cluster.KMeans(k, n_init=4, random_state=seed).fit_predict(rows)
    return torch.from_numpy(found.astype(np.int64))


def _labels(value: Any) -> Tensor:
    labels = _checks.as_tensor(value, "labels").detach()
    if labels.dtype not in _checks.INT_DTYPES or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"labels: expected integers of shape [N], got {str(labels.dtype)[6:]} "
            f"{list(labels.shape)}"
        )
    return labels.to(torch.int64)
