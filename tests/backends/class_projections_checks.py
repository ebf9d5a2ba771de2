"""What ``class_projections`` must hold to, and the plain answer to compare it with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

import sslkernels as ssk
from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu.class_projections import class_projections_forward as cpu_pass
from sslkernels.backends.torch.class_projections import class_projections_forward as torch_pass
from sslkernels.numerics.means import all_distances
from tests.isa import WIDTHS


class Problem(NamedTuple):
    z: torch.Tensor
    classes: torch.Tensor
    centers: torch.Tensor
    counts: torch.Tensor | None


class Answer(NamedTuple):
    rank: torch.Tensor
    alone: torch.Tensor
    spread: torch.Tensor


def every_path(p: Problem, directional: bool = True) -> Iterator[tuple[str, Answer]]:
    between = all_distances(p.centers)
    for level in WIDTHS:
        _C.set_isa_limit(level)
        yield level, Answer(*cpu_pass(*p, directional))
        yield f"{level}, distances given", Answer(*cpu_pass(*p, directional, between))
    yield "torch", Answer(*torch_pass(*p, directional))
    yield "torch, distances given", Answer(*torch_pass(*p, directional, between))


def check(p: Problem) -> None:
    """Ranks and rivals where float64 distances can tell; spreads to a few roundings of the terms
    that a projection is a sum of."""
    wanted = Plain(p)
    for name, got in every_path(p):
        kind = name.split(",")[0]
        wanted.assert_holds(got, "torch" if kind == "torch" else "cpu", name)


class Plain:
    """The plain answer, one row at a time, with the room that rounding leaves."""

    def __init__(self, p: Problem) -> None:
        self.p = p
        self.z, self.mu = p.z.double().numpy(), p.centers.numpy()
        self.y = p.classes.numpy()
        self.usable = np.flatnonzero(np.isfinite(self.mu).all(1))
        n, c = len(self.y), len(self.mu)
        d = self.z.shape[1]
        self.rank = np.full((n, 2), -1)  # lowest and highest
        self.alone = np.zeros((n, 2), dtype=bool)  # surely not, maybe
        self.spread = np.zeros(c)
        self.slack = {"cpu": np.zeros(c), "torch": np.zeros(c)}
        room = 2.0**-50 * (d + 16)
        mu = self.mu[self.usable].astype(np.longdouble)
        v = np.sqrt(((mu - mu.mean(0)) ** 2).sum(1)) if len(mu) else np.zeros(0)
        # Centers nearer each other than this share of their lengths are multiplied as differences.
        unit, near = (2.0**-53, 2.0**-12) if p.z.dtype == torch.float64 else (2.0**-24, 2.0**-5)
        for i in range(n):
            y = self.y[i]
            if y < 0:
                continue
            finite = np.isfinite(self.z[i]).all()
            if y not in self.usable or not finite:
                self.rank[i] = c
                if y in self.usable:
                    self.spread[y] = np.nan
                continue
            at = int(np.searchsorted(self.usable, y))
            others = self.usable != y
            d2 = ((self.z[i].astype(np.longdouble) - mu) ** 2).sum(1)
            same = (mu == mu[at]).all(1) & others
            lower = same & (self.usable < y)
            different = others & ~same
            own = d2[at]
            self.rank[i] = [
                (different & (d2 < own * (1 - room))).sum() + lower.sum(),
                (different & (d2 <= own * (1 + room))).sum() + lower.sum(),
            ]
            if p.counts is not None and p.counts[y] > 1:
                without = own * (np.longdouble(int(p.counts[y])) / int(p.counts[y] - 1)) ** 2
                rivals = lower if own == 0 else same
                self.alone[i] = [
                    not (rivals.any() or (different & (d2 <= without * (1 + room))).any()),
                    not (rivals.any() or (different & (d2 < without * (1 - room))).any()),
                ]
            if same.any():
                self.spread[y] = np.nan
            if np.isnan(self.spread[y]):
                continue
            r, lines = self.z[i] - mu[at], (mu - mu[at])[others]
            between = (lines**2).sum(1)
            t = lines @ r
            self.spread[y] += float(((t / between) ** 2).sum())
            reach = (v + v[at])[others]
            # The last: by how much of itself 1 / d^4 may be off. torch takes distances between
            # means from products, and by differences below 1e-4 of their terms.
            for name, u, size, turned in (
                ("cpu", unit, np.minimum(reach, 2 / near * np.sqrt(between)), 16 * unit),
                ("torch", 2.0**-53, reach, 2.0**-48 * np.minimum(1 + reach**2 / between, 1e4)),
            ):
                e = 16 * u * np.sqrt(own) * size + 2.0**-52 * np.abs(t)
                change = (2 * np.abs(t) * e + e**2) / between**2
                self.slack[name][y] += float((change + turned * (t / between) ** 2).sum())

    def assert_holds(self, got: Answer, backend: str, name: str) -> None:
        rank, alone, spread = (t.numpy() for t in got)
        assert ((rank >= self.rank[:, 0]) & (rank <= self.rank[:, 1])).all(), name
        assert (alone >= self.alone[:, 0]).all() and (alone <= self.alone[:, 1]).all(), name
        np.testing.assert_array_equal(np.isnan(spread), np.isnan(self.spread), name)
        error = np.abs(spread - self.spread)
        slack = self.slack[backend]
        assert not (error > slack).any(), (name, error, slack)


def of(data, *, counts: bool = True) -> Problem:
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    classes = data.labels.masked_fill(data.labels < 0, -1)
    return Problem(data.z, classes, m.centers().contiguous(), m.counts if counts else None)
