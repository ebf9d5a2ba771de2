"""Drop-ins with the names, defaults and conventions of other libraries' losses.

``lightly``, ``solo`` (solo-learn), ``official`` (facebookresearch/vicreg) and ``metric_learning``
(pytorch-metric-learning): change the import and nothing else. None of them imports the library that
it stands in for. What differs from each original is listed in ``docs/drop-in.md``.

``sklearn`` holds an estimator for scikit-learn, and ``torchmetrics`` metrics for torchmetrics. They
need these libraries, and are imported by their full names.
"""

from sslkernels.compat import lightly, metric_learning, official, solo

__all__ = ["lightly", "metric_learning", "official", "solo"]
