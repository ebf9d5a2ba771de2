"""``sslkernels study``: what self-supervised embeddings cluster by, on real digits, on a CPU.

After Ben-Shaul, Shwartz-Ziv, Galanti, Dekel, LeCun, "Reverse Engineering Self-Supervised Learning"
(NeurIPS 2023, arXiv 2305.15614): several ways of training are watched layer by layer by
:class:`sslkernels.monitor.EmbeddingMonitor`, against targets from random to semantic.
"""

from sslkernels.study.settings import StudySettings
from sslkernels.study.study import make

__all__ = ["StudySettings", "make"]
