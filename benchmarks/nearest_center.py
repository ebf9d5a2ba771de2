"""Exact nearest class-center prediction, against products with argmin and nearest-neighbour code.

The error is the share of rows whose center is not the float64 argmin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

import sslkernels as ssk
from benchmarks.class_moments import embeddings
from sslkernels.report.speed import NO_RESULT, Case, Workload


def product_argmin(z: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """``argmax(z . mu - ||mu||^2 / 2)`` by fp32 products of 8192 rows, N x C never whole."""
    half = -0.5 * centers.square().sum(1)
    return torch.cat([torch.addmm(half, rows, centers.T).argmax(1) for rows in z.split(8192)])


def faiss_search(z: torch.Tensor, centers: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Exhaustive L2 search, with as many threads as torch uses."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(centers.shape[1])
    index.add(centers.numpy())
    return lambda: torch.from_numpy(index.search(z.numpy(), 1)[1][:, 0])


def sklearn_argmin(z: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    from sklearn.metrics import pairwise_distances_argmin

    return torch.from_numpy(pairwise_distances_argmin(z.numpy(), centers.numpy()))


def _rivals(z: torch.Tensor, centers: torch.Tensor) -> dict[str, Callable[[], Any]]:
    jobs: dict[str, Callable[[], Any]] = {
        "sslkernels, exact": lambda: ssk.ncc_predict(z, centers),
        "sslkernels, fast": lambda: ssk.ncc_predict(z, centers, precision="fast"),
        "torch product + argmin": lambda: product_argmin(z, centers),
        "torch.cdist + argmin": lambda: torch.cat(
            [torch.cdist(rows, centers).argmin(1) for rows in z.split(8192)]
        ),
        "scikit-learn argmin": lambda: sklearn_argmin(z, centers),
    }
    try:
        jobs["faiss IndexFlatL2"] = faiss_search(z, centers)
    except ImportError:
        jobs["faiss IndexFlatL2"] = lambda: None
    return jobs


def _exact_argmin(z: torch.Tensor, centers: torch.Tensor) -> np.ndarray:
    """Float64 argmin: products around the mean center find the best two, differences decide."""
    g = centers.double().mean(0)
    mu = centers.double() - g
    half = -0.5 * mu.square().sum(1)
    best = []
    for rows in z.split(4096):
        two = torch.addmm(half, rows.double() - g, mu.T).topk(min(2, len(mu)), dim=1).indices
        two = two.sort(1).values
        d2 = (rows.double()[:, None] - centers.double()[two]).square().sum(2)
        best.append(two.gather(1, d2.argmin(1, keepdim=True))[:, 0])
    return torch.cat(best).numpy()


def _build(n: int, d: int, c: int, clustered: bool) -> Case:
    if clustered:
        z, labels = embeddings(n, d, c)
        centers = ssk.class_means(z, labels, c)
    else:
        g = torch.Generator().manual_seed(0)
        z, centers = torch.randn(n, d, generator=g), torch.randn(c, d, generator=g)
    exact = functools.cache(lambda: _exact_argmin(z, centers))

    def error(result: Any) -> float:
        return float("nan") if result is None else float((result.numpy() != exact()).mean())

    return Case(_rivals(z, centers), error, BOUNDS, 2.0 * n * d * c, "FLOP")


CONTENDERS = (
    "sslkernels, exact",
    "sslkernels, fast",
    "torch product + argmin",
    "torch.cdist + argmin",
    "scikit-learn argmin",
    "faiss IndexFlatL2",
)

# Shares of rows. Exact is exact; bf16 and fp32 products take another center where two are as near.
BOUNDS = {
    "sslkernels, exact": 0.0,
    "sslkernels, fast": 0.15,
    "torch product + argmin": 0.01,
    "torch.cdist + argmin": 0.01,
    "scikit-learn argmin": 0.01,
    "faiss IndexFlatL2": 0.01 if find_spec("faiss") else NO_RESULT,
}

WORKLOADS = [
    Workload(
        f"NCC, fp32 {n:,} x {d}, C = {c}, {kind}",
        CONTENDERS,
        functools.partial(_build, n, d, c, kind == "classes"),
        rounds,
    )
    for n, d, c, kind, rounds in [
        (100_000, 2048, 1000, "random data", 3),
        (100_000, 2048, 1000, "classes", 3),
        (100, 128, 10, "random data", 200),
        (50_021, 1021, 499, "random data", 3),
    ]
]
