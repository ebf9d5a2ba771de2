"""Reading embeddings and labels from files, checked first and streamed in chunks."""

from sslkernels.data.npy import DataError, NpyFile, open_embeddings, read_labels

__all__ = ["DataError", "NpyFile", "open_embeddings", "read_labels"]
