"""What others measure as well: class means and variances, CDNV, NC1, NC2 and NCC accuracy of one
labeling, in one call, against the two ways people take today.

*One-hot accumulators* is how public neural-collapse packages work (rhubarbwu/neural-collapse, for
one): batches multiplied by one-hot labels for means, a second reading for D x D covariance and
variances, then distances to all centers, a D x D pseudo-inverse, and CDNV from K x K x D
differences by tiles. *scikit-learn* fits and asks ``NearestCentroid``, the rest is NumPy.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

import sslkernels as ssk
from benchmarks.class_moments import embeddings
from sslkernels.report.speed import Case, Workload
from sslkernels.statistics.class_moments import ClassMoments

N, D, C = 100_000, 1024, 1000
CONTENDERS = ("sslkernels", "one-hot accumulators", "scikit-learn, NumPy")
_BATCH = 4096
_TILE = 64  # classes per side of a tile of K x K x D differences

Numbers = dict[str, float]


def ours(z: torch.Tensor, labels: torch.Tensor) -> Numbers:
    found = ssk.evaluate(z, labels, C, directional=False, spectrum=False, uniformity_rows=0)[
        "labels"
    ]
    return {
        "cdnv": found.cdnv,
        "nc1": found.nc1,
        "nc2 norms": found.nc2_norms,
        "nc2 angles": found.nc2_angles,
        "ncc": found.train.accuracy,
    }


def one_hot_accumulators(z: torch.Tensor, labels: torch.Tensor) -> Numbers:
    classes = torch.arange(C)
    counts, totals = torch.zeros(C), torch.zeros(C, D)
    batches = list(zip(z.split(_BATCH), labels.split(_BATCH), strict=True))
    for x, y in batches:
        member = (y[:, None] == classes).float()
        counts += member.sum(0)
        totals += member.T @ x
    means = totals / counts[:, None]
    covariance, variances, hits = torch.zeros(D, D), torch.zeros(C), 0
    lengths = means.square().sum(1)
    for x, y in batches:
        residual = x - means[y]
        covariance += residual.T @ residual
        variances += ((y[:, None] == classes).float().T @ residual.square()).sum(1)
        distances = x.square().sum(1, keepdim=True) + lengths - 2 * x @ means.T
        hits += int((distances.argmin(1) == y).sum())
    variances /= counts
    covariance /= len(z)
    cdnv = torch.zeros(C, C)
    for i in range(0, C, _TILE):
        for j in range(0, C, _TILE):
            gaps = (means[i : i + _TILE, None] - means[None, j : j + _TILE]).square().sum(-1)
            both = variances[i : i + _TILE, None] + variances[None, j : j + _TILE]
            cdnv[i : i + _TILE, j : j + _TILE] = both / 2 / gaps
    centered = means - means.mean(0)
    between = centered.T @ centered / C
    nc1 = torch.trace(torch.linalg.pinv(between) @ covariance) / C
    off = ~torch.eye(C, dtype=torch.bool)
    return {"cdnv": float(cdnv[off].mean()), "nc1": float(nc1), "ncc": hits / len(z)} | _nc2(
        centered.numpy()
    )


def scikit_learn(z: torch.Tensor, labels: torch.Tensor) -> Numbers:
    from sklearn.metrics import pairwise_distances
    from sklearn.neighbors import NearestCentroid

    x, y = z.numpy(), labels.numpy()
    model = NearestCentroid().fit(x, y)
    ncc = float((model.predict(x) == y).mean())
    means = model.centroids_
    variances, covariance = np.zeros(C), np.zeros((D, D))
    for c in range(C):
        residual = x[y == c] - means[c]
        variances[c] = (residual**2).sum(1).mean()
        covariance += residual.T @ residual
    gaps = pairwise_distances(means, squared=True, metric="euclidean")
    off = ~np.eye(C, dtype=bool)
    cdnv = ((variances[:, None] + variances) / 2)[off] / gaps[off]
    centered = means - means.mean(0)
    nc1 = np.trace(covariance / len(x) @ np.linalg.pinv(centered.T @ centered / C)) / C
    return {"cdnv": float(cdnv.mean()), "nc1": float(nc1), "ncc": ncc} | _nc2(centered)


def _nc2(centered: np.ndarray) -> Numbers:
    lengths = np.linalg.norm(centered, axis=1)
    unit = centered / lengths[:, None]
    gaps = np.abs(unit @ unit.T + 1 / (C - 1))
    return {
        "nc2 norms": float(lengths.std() / lengths.mean()),
        "nc2 angles": float((gaps.sum() - np.trace(gaps)) / (C * (C - 1))),
    }


def exact(z: torch.Tensor, labels: torch.Tensor) -> Numbers:
    """In float64, by the public functions on float64 rows, whose own reference is in the tests."""
    x = z.double()
    m = ssk.class_moments(x, labels, C)
    assert isinstance(m, ClassMoments)
    collapse = ssk.neural_collapse(x, labels, C)
    assert collapse.nc1 is not None
    return {
        "cdnv": float(ssk.cdnv(m)),
        "nc1": float(collapse.nc1),
        "nc2 norms": float(collapse.nc2_norms),
        "nc2 angles": float(collapse.nc2_angles),
        "ncc": float(ssk.ncc_accuracy(x, labels, m)),
    }


def _build() -> Case:
    z, labels = embeddings(N, D, C)
    want = functools.cache(lambda: exact(z, labels))

    def error(found: Numbers) -> float:
        return max(abs(found[name] / value - 1) for name, value in want().items())

    jobs = (ours, one_hot_accumulators, scikit_learn)
    return Case(
        contenders={
            name: functools.partial(job, z, labels)
            for name, job in zip(CONTENDERS, jobs, strict=True)
        },
        error=error,
        # The largest relative error of the five. Rivals take covariance and distances in fp32, and
        # its pseudo-inverse.
        bounds=dict(zip(CONTENDERS, (1e-5, 0.1, 0.1), strict=True)),
        amount=2.0 * N * C * D + 1.0 * N * D * D,  # distances to the centers, and the scatter
        unit="FLOP",
    )


WORKLOADS = [Workload(f"CDNV, NC1, NC2, NCC of {N:,} x {D}, C = {C}", CONTENDERS, _build, rounds=3)]
