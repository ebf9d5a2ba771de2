"""The rows that a monitor measures on: batches of inputs with the labels of each labeling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslkernels import _checks

ONLY = "labels"  # the labeling that has no name


@dataclass(frozen=True)
class Batch:
    """Inputs as the model takes them, how many rows they are, and int64 [rows] by labeling."""

    inputs: Any
    rows: int
    labels: dict[str, Tensor]


class Probe:
    """Train or test rows: ``(inputs, labels)`` tensors, or a re-iterable of such batches.

    Args:
        name: what errors call it.
        data: as above; labels are a tensor [N] or a mapping from labeling to such tensors.
        batch_rows: rows of a batch when the inputs are tensors.
        share: ``(rank, ranks)``: of tensors and of batches this rank takes every ranks-th.
    """

    def __init__(self, name: str, data: Any, batch_rows: int, share: tuple[int, int]) -> None:
        self.name, self._data, self._share = name, data, share
        self._batch_rows = batch_rows
        self.tensors = isinstance(data, Sequence) and len(data) == 2 and _rows(data[0]) is not None
        if self.tensors:
            self._whole = _batch(name, data)
            self._batch_rows = min(batch_rows, -(-self._whole.rows // share[1]))
            self.names = list(self._whole.labels)
            return
        if not isinstance(data, Iterable) or isinstance(data, (Iterator, Mapping, str)):
            raise TypeError(
                f"{name}: expected (inputs, labels) tensors or an iterable of such batches that "
                f"can be read again (a DataLoader), got {type(data).__name__}"
            )
        first = next(iter(data), None)
        if first is None:
            raise ValueError(f"{name}: yields no batch")
        self.names = list(_batch(name, first).labels)

    def largest(self) -> dict[str, int] | None:
        """The largest label of every labeling where all are at hand, else None."""
        if not self.tensors:
            return None
        return {key: int(values.max()) for key, values in self._whole.labels.items()}

    def __iter__(self) -> Iterator[Batch]:
        rank, ranks = self._share
        for number, batch in enumerate(self._batches()):
            if list(batch.labels) != self.names:
                raise ValueError(
                    f"{self.name}: a batch brings the labelings {list(batch.labels)}, "
                    f"the first one {self.names}"
                )
            if number % ranks == rank:
                yield batch

    def _batches(self) -> Iterator[Batch]:
        if not self.tensors:
            for pair in self._data:
                yield _batch(self.name, pair)
            return
        whole = self._whole
        for start in range(0, whole.rows, self._batch_rows):
            rows = slice(start, min(start + self._batch_rows, whole.rows))
            labels = {key: values[rows] for key, values in whole.labels.items()}
            yield Batch(whole.inputs[rows], rows.stop - rows.start, labels)


def _rows(inputs: Any) -> int | None:
    """The rows of a tensor or array, or None of what is not one."""
    if isinstance(inputs, (Tensor, np.ndarray)) and inputs.ndim > 0:
        return len(inputs)
    return None


def _batch(name: str, pair: Any) -> Batch:
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise TypeError(f"{name}: expected batches (inputs, labels), got {type(pair).__name__}")
    inputs, labels = pair
    if isinstance(inputs, np.ndarray):
        inputs = torch.from_numpy(inputs)
    named = labels if isinstance(labels, Mapping) else {ONLY: labels}
    if not named:
        raise ValueError(f"{name}: expected labels of at least one labeling")
    checked = {str(key): _labels(f"{name}: labels {key!r}", value) for key, value in named.items()}
    rows = _rows(inputs)
    lengths = {len(values) for values in checked.values()}
    if len(lengths) > 1 or (rows is not None and lengths != {rows}):
        held = ", ".join(f"{key!r} {len(values)}" for key, values in checked.items())
        raise ValueError(f"{name}: {rows} inputs, labels of {held} rows: they must be as many")
    return Batch(inputs, lengths.pop(), checked)


def _labels(name: str, value: Any) -> Tensor:
    labels = _checks.as_tensor(value, name).detach()
    if labels.dtype not in _checks.INT_DTYPES or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"{name}: expected integers of shape [N], got {str(labels.dtype)[6:]} "
            f"{list(labels.shape)}"
        )
    return labels.to(torch.int64)


def to_device(inputs: Any, device: torch.device) -> Any:
    """Tensors inside ``inputs`` on the model's device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    if isinstance(inputs, Mapping):
        return {key: to_device(value, device) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(to_device(value, device) for value in inputs)
    return inputs


def sizes_of(train: Probe, test: Probe | None, num_classes: Any) -> dict[str, int]:
    """The number of classes of every labeling."""
    names = train.names
    if num_classes is not None:
        given = dict(num_classes) if isinstance(num_classes, Mapping) else {}
        if given and set(given) != set(names):
            raise ValueError(f"num_classes: expected the labelings {names}, got {list(given)}")
        return {
            name: _checks.positive_int(given[name] if given else num_classes, "num_classes")
            for name in names
        }
    largest = [probe.largest() for probe in (train, test) if probe is not None]
    if None in largest:
        raise ValueError(
            "num_classes: needed where labels come in batches; {labeling: number of classes}"
        )
    sizes = {}
    for name in names:
        sizes[name] = max(found[name] for found in largest if found and name in found) + 1
        if sizes[name] < 1:
            raise ValueError(f"train: labels {name!r}: every label is -100")
    return sizes


def parents_of(
    superclasses: Mapping[str, Any], names: Sequence[str], sizes: dict[str, int]
) -> dict[str, Tensor]:
    """The superclass of each class of the first labeling, by name; adds to ``sizes``."""
    result = {}
    for name, given in superclasses.items():
        if name in sizes:
            raise ValueError(f"superclasses: there is a labeling {name!r} already")
        parents = torch.as_tensor(np.asarray(given))
        fine = sizes[names[0]]
        if (
            parents.dtype not in _checks.INT_DTYPES
            or parents.shape != (fine,)
            or int(parents.min()) < 0
        ):
            raise ValueError(
                f"superclasses: {name!r}: expected {fine} integers from 0, one for each class of "
                f"{names[0]!r}, got {given!r}"
            )
        result[name] = parents.to(torch.int64)
        sizes[name] = int(parents.max()) + 1
    return result
