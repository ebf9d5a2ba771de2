"""Watch what a model's embeddings cluster by while it trains.

:class:`EmbeddingMonitor` measures named layers of any ``nn.Module`` on a fixed set of rows: by
which labelings their embeddings cluster, how tightly, and how far they have collapsed. The
questions are those of Ben-Shaul, Shwartz-Ziv, Galanti, Dekel and LeCun, "Reverse Engineering
Self-Supervised Learning" (NeurIPS 2023, arXiv 2305.15614).
"""

from sslkernels.monitor.monitor import EmbeddingMonitor
from sslkernels.monitor.sinks import lightning_callback, tensorboard

__all__ = ["EmbeddingMonitor", "lightning_callback", "tensorboard"]
