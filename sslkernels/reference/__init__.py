"""The public functions in float64 NumPy, plain on purpose: what every backend is held to.

Same names and signatures; NumPy arrays in and out. Nothing here imports a kernel.
"""

from sslkernels.reference.cdnv import cdnv
from sslkernels.reference.class_moments import ClassMoments, class_means, class_moments
from sslkernels.reference.ncc import ncc_accuracy, ncc_predict, squared_distances

__all__ = [
    "ClassMoments",
    "cdnv",
    "class_means",
    "class_moments",
    "ncc_accuracy",
    "ncc_predict",
    "squared_distances",
]
