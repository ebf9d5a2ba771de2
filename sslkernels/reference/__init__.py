"""The public functions in float64 NumPy, plain on purpose: what every backend is held to.

Same names and signatures; NumPy arrays in and out. Nothing here imports a kernel.
"""

from sslkernels.reference.alignment import alignment, uniformity
from sslkernels.reference.barlow_twins import (
    BarlowTwinsTerms,
    barlow_twins_grad,
    barlow_twins_loss,
    barlow_twins_terms,
)
from sslkernels.reference.cdnv import cdnv
from sslkernels.reference.class_moments import ClassMoments, class_means, class_moments
from sslkernels.reference.class_projections import ClassProjections, class_projections
from sslkernels.reference.directional_cdnv import directional_cdnv
from sslkernels.reference.evaluate import evaluate
from sslkernels.reference.few_shot import FewShot, few_shot_ncc
from sslkernels.reference.ncc import ncc_accuracy, ncc_predict, squared_distances
from sslkernels.reference.ncc_scores import NCCScores, ncc_scores
from sslkernels.reference.neural_collapse import NeuralCollapse, neural_collapse
from sslkernels.reference.normalized_std import normalized_std
from sslkernels.reference.nt_xent import NTXentTerms, nt_xent_grad, nt_xent_loss, nt_xent_terms
from sslkernels.reference.sigreg import SIGRegTerms, sigreg_grad, sigreg_loss, sigreg_terms
from sslkernels.reference.spectrum import Spectrum, alpha_req, rankme, spectrum
from sslkernels.reference.vicreg import (
    VICRegTerms,
    covariance_grad,
    covariance_loss,
    invariance_loss,
    variance_grad,
    variance_loss,
    vicreg_grad,
    vicreg_loss,
    vicreg_terms,
)

__all__ = [
    "BarlowTwinsTerms",
    "ClassMoments",
    "ClassProjections",
    "FewShot",
    "NCCScores",
    "NTXentTerms",
    "NeuralCollapse",
    "SIGRegTerms",
    "Spectrum",
    "VICRegTerms",
    "alignment",
    "alpha_req",
    "barlow_twins_grad",
    "barlow_twins_loss",
    "barlow_twins_terms",
    "cdnv",
    "class_means",
    "class_moments",
    "class_projections",
    "covariance_grad",
    "covariance_loss",
    "directional_cdnv",
    "evaluate",
    "few_shot_ncc",
    "invariance_loss",
    "ncc_accuracy",
    "ncc_predict",
    "ncc_scores",
    "neural_collapse",
    "normalized_std",
    "nt_xent_grad",
    "nt_xent_loss",
    "nt_xent_terms",
    "rankme",
    "sigreg_grad",
    "sigreg_loss",
    "sigreg_terms",
    "spectrum",
    "squared_distances",
    "uniformity",
    "variance_grad",
    "variance_loss",
    "vicreg_grad",
    "vicreg_loss",
    "vicreg_terms",
]
