"""Fused kernels for self-supervised losses and class-geometry statistics of embeddings."""

from importlib.metadata import version as _version

from sslkernels.backends import BackendStatus, backends, use_backend
from sslkernels.losses import (
    VICRegLoss,
    VICRegTerms,
    covariance_loss,
    invariance_loss,
    variance_loss,
    vicreg_loss,
)
from sslkernels.statistics import (
    ClassMoments,
    cdnv,
    class_means,
    class_moments,
    ncc_accuracy,
    ncc_predict,
)

__version__ = _version("sslkernels")

__all__ = [
    "BackendStatus",
    "ClassMoments",
    "VICRegLoss",
    "VICRegTerms",
    "backends",
    "cdnv",
    "class_means",
    "class_moments",
    "covariance_loss",
    "invariance_loss",
    "ncc_accuracy",
    "ncc_predict",
    "use_backend",
    "variance_loss",
    "vicreg_loss",
]
