"""The numbers of a report: class moments of every labeling in one reading of the training
embeddings, NCC in a second.

Chunks are read, measured and forgotten; what stays in memory is one C x D mean per labeling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sslkernels import cdnv, ncc_predict
from sslkernels._checks import as_tensor
from sslkernels.data import NpyFile
from sslkernels.statistics.class_moments import ClassMoments, update_all

MATRIX_CLASSES = 2048  # up to this many classes, the whole CDNV matrix is kept (32 MB)


@dataclass(frozen=True)
class Labeling:
    """One set of targets for the same embeddings."""

    name: str
    num_classes: int
    train: np.ndarray  # int64 [N]
    test: np.ndarray | None = None  # int64 [N_test]


@dataclass(frozen=True)
class Split:
    """Rows and NCC hits of each class on one set of embeddings."""

    counts: np.ndarray  # int64 [C]
    hits: np.ndarray  # int64 [C]

    @property
    def ncc(self) -> float:
        total = self.counts.sum()
        return float(self.hits.sum() / total) if total else float("nan")

    @property
    def per_class(self) -> np.ndarray:
        """NCC accuracy of each class, NaN for classes without rows."""
        with np.errstate(invalid="ignore"):
            return self.hits / self.counts


@dataclass(frozen=True)
class Result:
    """What a report says of one labeling."""

    name: str
    train: Split
    test: Split | None
    variances: np.ndarray  # float64 [C]
    cdnv: float
    cdnv_matrix: np.ndarray | None  # float64 [C, C] up to MATRIX_CLASSES, NaN on the diagonal

    @property
    def num_classes(self) -> int:
        return len(self.variances)

    @property
    def filled(self) -> int:
        return int((self.train.counts > 0).sum())


OnRows = Callable[[str, int], None]  # (stage, rows done since the last call)


def measure(
    train: NpyFile,
    labelings: Sequence[Labeling],
    test: NpyFile | None = None,
    *,
    chunk_rows: int,
    ignore: int = -100,
    device: torch.device | str = "cpu",
    on_rows: OnRows = lambda stage, rows: None,
) -> list[Result]:
    """Moments, CDNV and NCC of embeddings under each labeling.

    Args:
        train: embeddings that give the class centers.
        labelings: targets of the rows of ``train`` (and of ``test``).
        test: embeddings to be classified with the centers of ``train``.
        chunk_rows: rows read at a time.
        ignore: label of rows to be skipped.
        device: where chunks are measured.
        on_rows: told of every chunk done in the stages ``"moments"``, ``"train"`` and ``"test"``.
    """
    dtype = torch.float64 if train.dtype.itemsize == 8 else torch.float32
    moments = [
        ClassMoments.empty(labels.num_classes, train.shape[1], device=device, dtype=dtype)
        for labels in labelings
    ]
    targets = np.stack([labels.train for labels in labelings])
    for start, rows in train.chunks(chunk_rows):
        chunk = np.ascontiguousarray(targets[:, start : start + len(rows)])
        z = _on(device, rows)
        update_all(moments, z, torch.from_numpy(chunk).to(z.device), ignore_index=ignore)
        on_rows("moments", len(rows))

    def classified(file: NpyFile, labels: Sequence[np.ndarray | None], stage: str) -> list[Split]:
        splits = [
            Split(np.zeros(m.num_classes, np.int64), np.zeros(m.num_classes, np.int64))
            for m in moments
        ]
        for start, rows in file.chunks(chunk_rows):
            z = _on(device, rows)
            for m, target, split in zip(moments, labels, splits, strict=True):
                if target is not None:
                    part = target[start : start + len(rows)]
                    _count(split, part, ncc_predict(z, m).cpu().numpy(), ignore)
            on_rows(stage, len(rows))
        return splits

    on_train = classified(train, [labels.train for labels in labelings], "train")
    on_test: Sequence[Split | None] = [None] * len(moments)
    if test is not None:
        counted = classified(test, [labels.test for labels in labelings], "test")
        on_test = [
            split if labels.test is not None else None
            for split, labels in zip(counted, labelings, strict=True)
        ]
    results = []
    for labels, m, a, b in zip(labelings, moments, on_train, on_test, strict=True):
        small = m.num_classes <= MATRIX_CLASSES
        matrix = cdnv(m, reduction="none").cpu().numpy() if small else None
        variances = m.variances.cpu().numpy()
        results.append(Result(labels.name, a, b, variances, float(cdnv(m)), matrix))
    return results


def _on(device: torch.device | str, rows: np.ndarray) -> torch.Tensor:
    return as_tensor(rows, "embeddings").to(device)


def _count(split: Split, labels: np.ndarray, predicted: np.ndarray, ignore: int) -> None:
    size = len(split.counts)
    used = labels[labels != ignore]
    split.counts[:] += np.bincount(used, minlength=size)
    split.hits[:] += np.bincount(labels[(labels == predicted) & (labels != ignore)], minlength=size)
