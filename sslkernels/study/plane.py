"""Embeddings in two dimensions: principal components, t-SNE, and UMAP where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np


def projections() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """By the name that the axes get, functions from [N, D] to [N, 2], the same for a seed."""
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {"PCA": _pca, "t-SNE": _tsne}
    if find_spec("umap") is not None:
        found["UMAP"] = _umap
    return found


def _pca(z: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(2, random_state=0).fit_transform(z)


def _tsne(z: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(z) - 1) / 3)
    start = "pca" if min(z.shape) > 1 else "random"
    return TSNE(2, perplexity=perplexity, init=start, random_state=0).fit_transform(z)


def _umap(z: np.ndarray) -> np.ndarray:
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed makes it run on one thread
        return umap.UMAP(random_state=0).fit_transform(z)
