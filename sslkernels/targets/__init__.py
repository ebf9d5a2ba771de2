"""Label sets of graded randomness: what do embeddings cluster by, and by how much less as labels
lose their meaning?

All are int64 tensors [N], drawn by seed, the same on every machine that has the same torch.

The question is that of "Reverse Engineering Self-Supervised Learning" (arXiv 2305.15614), which
measures clustering by targets between random and semantic. How its authors made theirs is not
known to us; :func:`supervised_stages` is one way to grade them, :func:`corrupted` another.
"""

from sslkernels.targets.drawn import clusters, corrupted, random_labels, sample_labels, superclasses
from sslkernels.targets.stages import SupervisedStages, supervised_stages

__all__ = [
    "SupervisedStages",
    "clusters",
    "corrupted",
    "random_labels",
    "sample_labels",
    "superclasses",
    "supervised_stages",
]
