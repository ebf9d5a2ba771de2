"""Class-geometry statistics of embeddings."""

from sslkernels.statistics.cdnv import cdnv
from sslkernels.statistics.class_moments import ClassMoments, class_means, class_moments
from sslkernels.statistics.ncc import ncc_accuracy, ncc_predict

__all__ = ["ClassMoments", "cdnv", "class_means", "class_moments", "ncc_accuracy", "ncc_predict"]
