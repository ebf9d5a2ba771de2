"""NCC scores and directional CDNV together, in float64 NumPy: one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sslkernels.reference.class_moments import ClassMoments
from sslkernels.reference.directional_cdnv import directional_cdnv
from sslkernels.reference.ncc_scores import NCCScores, ncc_scores


class ClassProjections(NamedTuple):
    scores: NCCScores
    directional_cdnv: Any


def class_projections(
    z: Any,
    labels: Any,
    m: ClassMoments,
    *,
    top_k: Sequence[int] = (1, 5),
    ignore_index: int = -100,
) -> ClassProjections:
    return ClassProjections(
        ncc_scores(z, labels, m, top_k=top_k, ignore_index=ignore_index),
        directional_cdnv(z, np.asarray(labels), m, ignore_index=ignore_index),
    )
