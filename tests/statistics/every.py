"""Every public name of the statistics, as a call of labelled rows: what the suites run over all.

A name without an entry here fails ``test_every_public_name_has_an_entry``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

import sslkernels as ssk

C = 4
N, D = 26, 6

_g = torch.Generator().manual_seed(0)
LABELS = torch.arange(N) % C
LABELS[3] = -100
# On a grid of 1/32 below 4, so that every floating-point dtype holds the same numbers.
Z = (8 * torch.randn(C, D, generator=_g)[LABELS % C] + 4 * torch.randn(N, D, generator=_g)).round()
Z = Z.clamp(-127, 127) / 32


class Accumulator(NamedTuple):
    """How an accumulator is made, fed and read; ``m`` are the class moments of all rows."""

    make: Callable[[ssk.ClassMoments], Any]
    update: Callable[[Any, Any, Any], Any]
    read: Callable[[Any], Any]


def _add(acc: Any, z: Any, labels: Any) -> Any:
    return acc.update(z, labels)


ACCUMULATORS = {
    "ClassMoments": Accumulator(
        lambda m: ssk.ClassMoments.empty(C, m.dim, device=m.device, dtype=m.dtype),
        _add,
        lambda m: (m.counts, m.means, m.m2, m.variances, ssk.cdnv(m)),
    ),
    "ClassProjectionsPass": Accumulator(
        lambda m: ssk.ClassProjectionsPass(m, top_k=(1, 2)), _add, lambda p: p.compute()
    ),
    "DirectionalCDNVPass": Accumulator(
        lambda m: ssk.DirectionalCDNVPass(m, reduction="none"), _add, lambda p: p.compute()
    ),
    "NCCScoresPass": Accumulator(
        lambda m: ssk.NCCScoresPass(m, top_k=(1, 2)), _add, lambda p: p.compute()
    ),
    "NeuralCollapsePass": Accumulator(
        lambda m: ssk.NeuralCollapsePass(m, weight=torch.eye(C, m.dim, device=m.device)),
        _add,
        lambda p: p.compute(),
    ),
    "NormalizedMoments": Accumulator(
        lambda m: ssk.NormalizedMoments.empty(m.dim, device=m.device),
        lambda acc, z, labels: acc.update(z),
        lambda m: (m.count, m.mean, m.m2, m.std),
    ),
    "PooledScatter": Accumulator(
        lambda m: ssk.PooledScatter.empty(C, m.dim, device=m.device, dtype=m.dtype),
        _add,
        lambda s: (
            (s.moments.counts, s.moments.m2, s.covariance, s.total().matrix),
            (s.coarsen([0, 0, 1, 1]).matrix, s.within(s.moments.coarsen([0, 1, 1, 0])).matrix),
        ),
    ),
}


def _accumulated(kind: Accumulator) -> Callable[[Any, Any], Any]:
    def call(z: Any, labels: Any) -> Any:
        """In batches, through a merge and a saved state."""
        m = ssk.class_moments(z, labels, C)
        first = kind.update(kind.make(m), z[:9], labels[:9])
        second = kind.update(kind.make(m), z[9:], labels[9:])
        both = first.merge(second)
        return kind.read(kind.make(m).load_state_dict(both.state_dict()))

    return call


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    **{name: _accumulated(kind) for name, kind in ACCUMULATORS.items()},
    "alignment": lambda z, labels: ssk.alignment(z[:-1], z[1:]),
    "alpha_req": lambda z, labels: ssk.alpha_req(abs(z[:, 0]), alpha_ranks=(1, 20)),
    "cdnv": lambda z, labels: [
        ssk.cdnv(ssk.class_moments(z, labels, C), reduction=r) for r in ("mean", "none")
    ],
    "class_means": lambda z, labels: ssk.class_means(z, labels, C),
    "class_moments": lambda z, labels: [ssk.class_moments(z, labels, C).m2],
    "class_projections": lambda z, labels: ssk.class_projections(
        z, labels, ssk.class_moments(z, labels, C)
    ),
    "directional_cdnv": lambda z, labels: ssk.directional_cdnv(
        z, labels, ssk.class_moments(z, labels, C)
    ),
    "few_shot_ncc": lambda z, labels: ssk.few_shot_ncc(z, labels, C, shots=2, repeats=2),
    "ncc_accuracy": lambda z, labels: ssk.ncc_accuracy(
        z, labels, ssk.class_means(z, labels, C), precision="fast"
    ),
    "ncc_predict": lambda z, labels: ssk.ncc_predict(z, ssk.class_means(z, labels, C)),
    "ncc_scores": lambda z, labels: ssk.ncc_scores(
        z, labels, ssk.class_means(z, labels, C), top_k=(1, 2)
    ),
    "neural_collapse": lambda z, labels: ssk.neural_collapse(
        z, labels, C, weight=ssk.class_means(z, labels, C)
    ),
    "normalized_std": lambda z, labels: ssk.normalized_std(z),
    "rankme": lambda z, labels: ssk.rankme(abs(z[:, 0])),
    "spectrum": lambda z, labels: [
        ssk.spectrum(z, labels, C, alpha_ranks=(1, 5)),
        ssk.spectrum(z[:5], alpha_ranks=(1, 5)),  # more columns than rows
    ],
    "uniformity": lambda z, labels: ssk.uniformity(z),
}


def leaves(result: Any) -> list[Any]:
    """The arrays of a result, in order."""
    if isinstance(result, (list, tuple)):
        return [leaf for part in result if part is not None for leaf in leaves(part)]
    return [result]


def assert_same(got: Any, want: Any, *, rtol: float = 0.0) -> None:
    """The same arrays, NaN where NaN is wanted; bit for bit without a tolerance, which is relative
    to the largest value of each."""
    got, want = leaves(got), leaves(want)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        g, w = np.asarray(g), np.asarray(w)
        assert g.shape == w.shape
        if rtol:
            largest = np.abs(w[np.isfinite(w)]).max(initial=0.0)
            np.testing.assert_allclose(g, w, rtol=0.0, atol=rtol * largest)
        else:
            np.testing.assert_array_equal(g, w)
