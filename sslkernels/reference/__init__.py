"""The public functions in float64 NumPy, plain on purpose: what every backend is held to.

Same names and signatures; NumPy arrays in and out. Nothing here imports a kernel.
"""

from sslkernels.reference.barlow_twins import (
    BarlowTwinsTerms,
    barlow_twins_grad,
    barlow_twins_loss,
    barlow_twins_terms,
)
from sslkernels.reference.cdnv import cdnv
from sslkernels.reference.class_moments import ClassMoments, class_means, class_moments
from sslkernels.reference.ncc import ncc_accuracy, ncc_predict, squared_distances
from sslkernels.reference.nt_xent import NTXentTerms, nt_xent_grad, nt_xent_loss, nt_xent_terms
from sslkernels.reference.sigreg import SIGRegTerms, sigreg_grad, sigreg_loss, sigreg_terms
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
    "NTXentTerms",
    "SIGRegTerms",
    "VICRegTerms",
    "barlow_twins_grad",
    "barlow_twins_loss",
    "barlow_twins_terms",
    "cdnv",
    "class_means",
    "class_moments",
    "covariance_grad",
    "covariance_loss",
    "invariance_loss",
    "ncc_accuracy",
    "ncc_predict",
    "nt_xent_grad",
    "nt_xent_loss",
    "nt_xent_terms",
    "sigreg_grad",
    "sigreg_loss",
    "sigreg_terms",
    "squared_distances",
    "variance_grad",
    "variance_loss",
    "vicreg_grad",
    "vicreg_loss",
    "vicreg_terms",
]
