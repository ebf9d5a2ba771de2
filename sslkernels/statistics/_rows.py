"""Labelled rows in float64 blocks: how the second passes read embeddings.

The first pass over a data set makes class moments; a second pass asks about rows relative to
centers that are known by then. It reads blocks of rows, never a float64 copy of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sslkernels import _checks
from sslkernels.passes.class_moments import bad_label

BLOCK = 2048  # rows per block: 32 MB of float64 at D = 2048
_CHUNK = 65536  # rows sorted by class at a time, so that a memory-mapped file is read in order
_ROWS_PER_CLASS = 64  # and more if there are many classes


def checked(
    z: Any, labels: Any, num_classes: int, ignore_index: int, *, suffix: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [N, D] and their classes int64 [N], -1 where the label is ``ignore_index``."""
    rows = _checks.embeddings(_checks.as_tensor(z, "z" + suffix), "z" + suffix)
    given = _checks.labelings(_checks.as_tensor(labels, "labels" + suffix), 1, rows, suffix=suffix)
    given = given[0]
    used = given != ignore_index
    bad = used & ((given < 0) | (given >= num_classes))
    if bad.any():
        row = int(bad.nonzero()[0])
        value = int(given[row])
        raise bad_label("labels" + suffix, row, value, num_classes, ignore_index)
    return rows, given.masked_fill(~used, -1)


def fits(rows: torch.Tensor, dim: int, device: torch.device) -> None:
    """The rows go with class centers of ``dim`` columns on ``device``."""
    if rows.shape[1] != dim:
        raise ValueError(f"z: expected {dim} columns to match the centers, got {list(rows.shape)}")
    if rows.device != device:
        raise ValueError(f"z: is on {rows.device}, the centers are on {device}")


def blocks(
    rows: torch.Tensor, classes: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``(rows float64 [B, D], classes [B])`` of the labelled rows, in their order."""
    for x, c in zip(rows.split(BLOCK), classes.split(BLOCK), strict=True):
        used = c >= 0
        if not used.all():
            x, c = x[used], c[used]
        if len(c):
            yield x.double(), c


def chunks(
    rows: torch.Tensor, classes: torch.Tensor, num_classes: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Stretches of rows for a pass that takes them in class order: long enough that what it does
    per class is small beside what it does per row."""
    size = max(_CHUNK, _ROWS_PER_CLASS * num_classes)
    return zip(rows.split(size), classes.split(size), strict=True)


def sorted_blocks(
    rows: torch.Tensor, classes: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Like :func:`blocks`, with the classes in ascending order within long chunks of rows.

    A block then holds few classes, and sums per class are one small product with a 0-1 matrix:
    the same result every time, which scattered atomic additions would not give.
    """
    for x, c in zip(rows.split(_CHUNK), classes.split(_CHUNK), strict=True):
        order = torch.argsort(c, stable=True)
        order = order[int((c < 0).sum()) :]
        for part in order.split(BLOCK):
            if len(part):
                yield x[part].double(), c[part]


def result(value: torch.Tensor, source: Any) -> Any:
    """A tensor as the user gave the input: a NumPy array, or scalar, for a NumPy array."""
    return value.numpy()[()] if isinstance(source, np.ndarray) else value


def results(values: Any, source: Any) -> Any:
    """A named tuple of tensors, or of None, each as :func:`result`."""
    return type(values)(*(v if v is None else result(v, source) for v in values))
