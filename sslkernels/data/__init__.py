"""Reading embeddings and labels from memory, files and streams: checked first, then in chunks."""

from sslkernels.data.device import on_device
from sslkernels.data.errors import DataError
from sslkernels.data.labels import open_labels
from sslkernels.data.npy import NpyFile
from sslkernels.data.source import Chunk, Source, open_source, open_sources

__all__ = [
    "Chunk",
    "DataError",
    "NpyFile",
    "Source",
    "on_device",
    "open_labels",
    "open_source",
    "open_sources",
]
