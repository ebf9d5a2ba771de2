"""What the demo says of a model: its loss terms on held-out views, the geometry of its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import sslkernels as ssk
from sslkernels.cli.demo.train import features, terms
from sslkernels.study import digits
from sslkernels.study.network import Encoder

_VIEWS_SEED = 1  # of the fixed augmentations that the terms are measured on


@dataclass(frozen=True)
class Geometry:
    """One labeling's statistics of one model's features."""

    labeling: str
    classes: int
    cdnv_train: float
    cdnv_test: float
    ncc_train: float
    ncc_test: float  # with the centers of the training rows


@dataclass(frozen=True)
class Snapshot:
    """A model at one moment."""

    terms: dict[str, float]
    geometry: list[Geometry]
    test_features: np.ndarray
    cdnv_matrix: np.ndarray  # of the ten digits, on test

    def as_json(self) -> dict[str, Any]:
        return {"terms": self.terms, "geometry": [vars(g) for g in self.geometry]}


def snapshot(model: Encoder, train: digits.Digits, test: digits.Digits) -> Snapshot:
    on_train, on_test = features(model, train.images), features(model, test.images)
    a = _moments(on_train, train.labels)
    b = _moments(on_test, test.labels)
    geometry = []
    for name, (own, other) in {k: (a[k], b[k]) for k in a}.items():
        row = 1 if name == "random" else 0
        labels = [part.labels[row] for part in (train, test)]
        if own.num_classes == len(digits.SHAPES):
            parents = torch.tensor(digits.PARENTS, device=on_train.device)
            labels = [parents[part] for part in labels]
        geometry.append(
            Geometry(
                name,
                own.num_classes,
                float(ssk.cdnv(own)),
                float(ssk.cdnv(other)),
                float(ssk.ncc_accuracy(on_train, labels[0], own)),
                float(ssk.ncc_accuracy(on_test, labels[1], own)),
            )
        )
    return Snapshot(
        terms(model, test.images, _VIEWS_SEED),
        geometry,
        on_test.cpu().numpy(),
        ssk.cdnv(b["digits"], reduction="none").cpu().numpy(),
    )


def _moments(z: torch.Tensor, labels: torch.Tensor) -> dict[str, ssk.ClassMoments]:
    """Digits and random labels in one reading; shapes from the digits, without another."""
    moments = ssk.class_moments(z, labels, [10, 10])
    assert isinstance(moments, tuple)
    return {
        "digits": moments[0],
        "shapes": moments[0].coarsen(digits.PARENTS),
        "random": moments[1],
    }
