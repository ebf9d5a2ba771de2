"""Class labels as int64, each checked once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sslkernels.data.errors import DataError

_LARGEST = np.iinfo(np.int64).max


def checked_labels(
    parts: Iterable[np.ndarray],
    rows: int,
    where: str,
    ignore: int,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Integer arrays in a row as int64 [rows], each label ``ignore`` or not negative.

    ``where`` names them in the message.
    """
    labels = np.empty(rows, dtype=np.int64) if out is None else out
    start = 0
    for part in parts:
        if part.dtype == np.uint64 and (too_large := part > _LARGEST).any():
            row = int(too_large.argmax())
            raise DataError(f"{where}: row {start + row} holds {part[row]}: too large a label")
        labels[start : start + len(part)] = part
        start += len(part)
    negative = labels < 0
    if negative.any() and (negative := negative & (labels != ignore)).any():
        row = int(negative.argmax())
        raise DataError(
            f"{where}: row {row} holds {labels[row]}: labels are 0, 1, 2, ..., "
            f"or {ignore} for rows to skip"
        )
    return labels
