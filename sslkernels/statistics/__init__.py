"""Class-geometry statistics of embeddings."""

from sslkernels.statistics.alignment import alignment, uniformity
from sslkernels.statistics.cdnv import cdnv
from sslkernels.statistics.class_moments import ClassMoments, class_means, class_moments
from sslkernels.statistics.class_projections import (
    ClassProjections,
    ClassProjectionsPass,
    class_projections,
)
from sslkernels.statistics.directional_cdnv import DirectionalCDNVPass, directional_cdnv
from sslkernels.statistics.few_shot import FewShot, few_shot_ncc
from sslkernels.statistics.ncc import ncc_accuracy, ncc_predict
from sslkernels.statistics.ncc_scores import NCCScores, NCCScoresPass, ncc_scores
from sslkernels.statistics.neural_collapse import (
    NeuralCollapse,
    NeuralCollapsePass,
    neural_collapse,
)
from sslkernels.statistics.normalized_std import NormalizedMoments, normalized_std
from sslkernels.statistics.pooled_scatter import PooledScatter
from sslkernels.statistics.spectrum import Spectrum, alpha_req, rankme, spectrum

__all__ = [
    "ClassMoments",
    "ClassProjections",
    "ClassProjectionsPass",
    "DirectionalCDNVPass",
    "FewShot",
    "NCCScores",
    "NCCScoresPass",
    "NeuralCollapse",
    "NeuralCollapsePass",
    "NormalizedMoments",
    "PooledScatter",
    "Spectrum",
    "alignment",
    "alpha_req",
    "cdnv",
    "class_means",
    "class_moments",
    "class_projections",
    "directional_cdnv",
    "few_shot_ncc",
    "ncc_accuracy",
    "ncc_predict",
    "ncc_scores",
    "neural_collapse",
    "normalized_std",
    "rankme",
    "spectrum",
    "uniformity",
]
