"""From the chunks of a source to rows ready to be measured: on their device, bad rows found,
normalised on request, with the classes of every labeling beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sslkernels.data import Chunk, DataError, Source, on_device
from sslkernels.evaluation.labelings import Labeling

_SMALL, _LARGE = 1e-15, 1e15  # lengths whose squares are exact enough in float32
LISTED = 20  # bad rows that a report names; all are counted


@dataclass
class BadRows:
    """Rows that were left out because they hold NaN or infinity."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, source: Source, rows: Sequence[int]) -> None:
        self.count += len(rows)
        for row in rows[: max(0, LISTED - len(self.first))]:
            self.first.append(source.locate(row))


@dataclass(frozen=True)
class Rows:
    """Rows of one chunk: ``z`` [n, D], ``classes`` [K, n] (``ignore_index`` where unlabelled), and
    ``index`` [n], the place of each row in the whole data. ``total`` counts bad rows as well."""

    z: torch.Tensor
    classes: torch.Tensor
    index: np.ndarray
    total: int


def chunks(
    source: Source,
    labelings: Sequence[Labeling],
    labels: Sequence[np.ndarray | None],
    *,
    chunk_rows: int,
    first: int,
    before: int,
    device: torch.device,
    normalize: bool,
    ignore_index: int,
    bad: BadRows | None,
) -> Iterator[Rows]:
    """The chunks of ``source`` from the ``first``, each as :class:`Rows`.

    Args:
        labelings: what ``labels`` belong to, in order.
        labels: int64 [N] of the whole data for each; None where the chunks bring them, or where
            they follow from those of another labeling.
        before: rows of the whole data before those of ``source``.
        bad: where rows with NaN or infinity are noted and left out; None makes them an error.

    Raises:
        DataError: a row holds NaN or infinity, and ``bad`` is None.
    """
    for chunk in on_device(source.chunks(chunk_rows, first), device):
        z = chunk.z
        index = np.arange(len(z)) + (before + chunk.start)
        classes = _classes(chunk, labelings, labels, source.offset, ignore_index).to(z.device)
        # The sum of everything is one plain read; only when it fails does it matter which row.
        wide = torch.float64 if z.dtype == torch.float64 else torch.float32
        if not z.sum(dtype=wide).isfinite():
            good = z.isfinite().all(1)
            if not good.all():
                wrong = (~good).nonzero().squeeze(1).cpu().numpy()
                if bad is None:
                    raise DataError(
                        f"{source.locate(int(chunk.start + wrong[0]))} holds NaN or infinity; "
                        "skip_bad leaves such rows out"
                    )
                bad.add(source, [int(chunk.start + row) for row in wrong])
                z, classes, index = z[good], classes[:, good], index[good.cpu().numpy()]
        total = len(chunk.z)
        del chunk
        yield Rows(unit(z) if normalize else z, classes, index, total)
        del z  # the consumer's reference is the last one


def unit(z: torch.Tensor) -> torch.Tensor:
    """``z / ||z||`` in float32 (float64 for float64 rows); a row of zeros stays zero."""
    x = z if z.dtype in (torch.float32, torch.float64) else z.float()
    lengths = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    extreme = ~((lengths > _SMALL) & (lengths < _LARGE)).squeeze(1)
    if extreme.any():
        wide = torch.linalg.vector_norm(x[extreme].double(), dim=1, keepdim=True)
        lengths[extreme] = wide.to(x.dtype)
    return x / lengths.masked_fill_(lengths == 0, 1.0)


def _classes(
    chunk: Chunk,
    labelings: Sequence[Labeling],
    labels: Sequence[np.ndarray | None],
    offset: int,
    ignore_index: int,
) -> torch.Tensor:
    out = torch.full((len(labelings), len(chunk.z)), ignore_index, dtype=torch.int64, device="cpu")
    start = offset + chunk.start
    for k, (labeling, values) in enumerate(zip(labelings, labels, strict=True)):
        if values is not None:
            out[k] = torch.from_numpy(values[start : start + len(chunk.z)])
        elif labeling.derived:
            assert labeling.finer is not None and labeling.parents is not None
            fine = out[labeling.finer]
            used = fine != ignore_index
            out[k, used] = torch.from_numpy(labeling.parents)[fine[used]]
        elif chunk.labels is not None and labeling.name in chunk.labels:
            out[k] = chunk.labels[labeling.name]
    return out
