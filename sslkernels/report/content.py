"""What ``report.json`` holds: every number, nested by embeddings and labeling and as one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sslkernels.evaluation import (
    NCC,
    EmbeddingsResult,
    Evaluation,
    LabelingResult,
    SpectrumResult,
    scalars,
)
from sslkernels.report.files import versions


def report(evaluation: Evaluation, described: Mapping[str, Any]) -> dict[str, Any]:
    """Args:
    evaluation: the results.
    described: the files that they come from: ``labels``, ``classifiers`` and, by name,
        ``embeddings``.
    """
    return {
        "versions": versions(),
        "settings": {**evaluation.settings, "cdnv_convention": "galanti", "ncc": "exact"},
        "labels": described["labels"],
        "classifiers": described["classifiers"],
        "embeddings": [
            {"name": name, "inputs": described["embeddings"][name], **_embeddings(result)}
            for name, result in evaluation.embeddings.items()
        ],
        "rows": evaluation.rows(),
    }


def _embeddings(result: EmbeddingsResult) -> dict[str, Any]:
    return {
        **_scalars(result, scalars.OF_EMBEDDINGS),
        "test_rows": result.test_rows,
        "bad_rows": result.bad,
        "skipped": result.skipped,
        "spectrum": _spectrum(result.spectrum),
        "labelings": [_labeling(labels) for labels in result.labelings.values()],
    }


def _labeling(result: LabelingResult) -> dict[str, Any]:
    per_class = {"variance": result.variances, **_by_class("train", result.train)}
    if result.test is not None:
        per_class |= _by_class("test", result.test)
    if result.cdnv_matrix is not None:
        per_class["cdnv"] = row_means(result.cdnv_matrix)
    return {
        "name": result.name,
        **_scalars(result, scalars.OF_LABELING),
        "ncc_train": result.train.accuracy,
        "ncc_test": result.test.accuracy if result.test else None,
        "ncc_top_k_train": result.train.top_k,
        "ncc_top_k_test": result.test.top_k if result.test else None,
        "few_shot": {m: dataclasses.asdict(few) for m, few in result.few_shot.items()},
        "within": _spectrum(result.within),
        "per_class": per_class,
    }


def _scalars(result: Any, statistics: Sequence[scalars.Statistic]) -> dict[str, Any]:
    """By name, those that are neither of a family nor in a spectrum, which stand on their own."""
    spectral = {field.name for field in dataclasses.fields(SpectrumResult)}
    names = [s.name for s in statistics if "{" not in s.name and s.name not in spectral]
    return {name: getattr(result, name) for name in names}


def _spectrum(result: SpectrumResult | None) -> dict[str, Any] | None:
    return None if result is None else dataclasses.asdict(result)


def _by_class(name: str, ncc: NCC) -> dict[str, np.ndarray]:
    return {f"count_{name}": ncc.counts, f"ncc_{name}": ncc.per_class}


def row_means(matrix: np.ndarray) -> np.ndarray:
    """Each class's mean CDNV with the other non-empty classes; NaN for empty classes."""
    others = ~np.isnan(matrix)
    with np.errstate(invalid="ignore"):
        return np.where(others, matrix, 0.0).sum(1) / others.sum(1)
