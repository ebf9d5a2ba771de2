"""How classes spread around their means: directional CDNV and neural collapse."""

from __future__ import annotations

import torch

import sslkernels as ssk
from tests.soak.bounds import between, hold, one_thread, rounding
from tests.soak.centers import clustered, distances, ranks
from tests.soak.draws import Draw
from tests.soak.moments import Truth


class Directional:
    """V_ij, the mean over the rows of class i of ``(r . (mu_j - mu_i))^2 / d_ij^4``, [C, C].

    A product of r and a mean loses the rounding of their lengths. Where the line between two means
    is short beside them it is multiplied instead: below 2^-5 of them in float32, 2^-12 in float64.
    So a projection t is off by that many roundings of ||r|| d_ij at most, and by what both means
    may be off; t^2 by 2 |t| of it and its square.
    """

    def __init__(self, truth: Truth, dtype: torch.dtype) -> None:
        c, dim = truth.mean.shape
        d2 = distances(torch.where(truth.filled[:, None], truth.mean, 0.0), truth.mean)
        self.matrix = torch.full((c, c), torch.nan, dtype=torch.float64)
        parts = truth.residual[truth.labels.argsort(stable=True)].split(truth.counts.tolist())
        for i in truth.filled.nonzero().squeeze(1).tolist():
            line = truth.mean - truth.mean[i]
            self.matrix[i] = (parts[i] @ line.T).square().mean(0) / d2[i].square()
            self.matrix[i, i] = torch.nan
        self._pairs = truth.filled[:, None] & truth.filled & ~torch.eye(c, dtype=torch.bool)
        self._roots = self.matrix.sqrt()
        self._dim, self._dtype = dim, dtype
        line = d2.sqrt()
        self._spread = (truth.m2 / truth.counts).sqrt()[:, None] / line  # ||r|| d / d^2
        off = truth.off_mean(dtype, int(truth.counts.max())).norm() / line
        # Where means are as near as they may be off, nothing is known of the line between them.
        self.known = (off < 0.1) | ~self._pairs
        self._moved = 4 * off * self.matrix + 2 * self._roots * off * (2 * self._spread + 1)
        self._moved += (off * (2 * self._spread + 1)).square()

    @property
    def mean(self) -> torch.Tensor:
        return self.matrix[self._pairs].mean()

    def off_matrix(self) -> torch.Tensor:
        """The matrix is of float64 products."""
        e = 2.0**12 * rounding(torch.float64, self._dim) * self._spread
        return (2 * self._roots * e + e.square() + self._moved).nan_to_num()

    def off_mean(self) -> torch.Tensor:
        """Pairs are off independently of each other."""
        share = 2.0**12 if self._dtype == torch.float64 else 2.0**5
        e = share * rounding(self._dtype, self._dim) * self._spread
        first = (2 * self._roots * e)[self._pairs]
        return first.norm() / len(first) + (e.square() + self._moved)[self._pairs].mean()


def case_directional_cdnv(draw: Draw) -> None:
    z, labels, c = clustered(draw, limit=5e7)
    while c * c * z.exact.shape[1] > 1e8:
        c = c // 2
        labels = torch.where(labels >= 0, labels % c, -100)
    truth = Truth(z.exact, labels, c)
    if truth.filled.sum() < 2:
        return
    m = ssk.class_moments(z.given, labels, c)
    want = Directional(truth, z.dtype)
    facts = f"C = {c}, {z.facts}"
    matrix = torch.as_tensor(ssk.directional_cdnv(z.given, labels, m, reduction="none"))
    known = [torch.where(want.known, t, 0.0) for t in (matrix, want.matrix, want.off_matrix())]
    hold(f"{facts}: matrix", *known)
    if want.known.all():
        both = ssk.class_projections(z.given, labels, m)
        for mean in (ssk.directional_cdnv(z.given, labels, m), both.directional_cdnv):
            hold(f"{facts}: mean", mean, want.mean, want.off_mean())


def nc1(truth: Truth, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor] | None:
    """NC1 = sum_k a_k / s_k^2, a_k the variance along the k-th direction between the means, and
    what it may be off by; None where a direction is too short to have any digits.

    With means off by e, a change of M by E = e sqrt(C): d tr(W B^+) <= 2 ||E|| / s_min tr(W B^+),
    and residuals off by e change sqrt(a_k) by e.
    """
    mean = truth.mean[truth.filled]
    if len(mean) < 2:
        return None
    centered = mean - mean.mean(0)
    centered = centered - centered.mean(0)
    with one_thread():
        _, s, v = torch.linalg.svd(centered, full_matrices=False)
    rank = min(len(mean) - 1, mean.shape[1])
    s, v = s[:rank], v[:rank]
    off = truth.off_mean(dtype, int(truth.counts.max())).norm()
    if s[-1] < 100 * off * len(mean) ** 0.5 or s[-1] < 1e-4 * s[0]:
        return None
    n = len(truth.z)
    along = (truth.residual @ v.T).square().sum(0) / n
    value = (along / s.square()).sum()
    # A product with a direction loses the rounding of ||r||: independently from row to row.
    product = rounding(dtype, mean.shape[1]) * (truth.m2.sum() / n).sqrt() + off
    each = (2 * along.sqrt() * product + product.square()) / s.square()
    return value, each.sum() + 4 * off * len(mean) ** 0.5 / s[-1] * value


def case_neural_collapse(draw: Draw) -> None:
    z, labels, c = clustered(draw, limit=5e7, elements=1e6)
    dim, dtype = z.exact.shape[1], z.dtype
    truth = Truth(z.exact, labels, c)
    weight, bias = draw.normal(c, dim), draw.normal(c)
    got = ssk.neural_collapse(z.given, labels, c, weight=weight, bias=bias)
    facts = f"C = {c}, {z.facts}"
    if len(truth.z):
        means = ssk.class_moments(z.given, labels, c).centers()
        logits = truth.z @ weight.T + bias
        highest, at = logits.max(1)
        size = truth.z.norm(dim=1) * weight.norm(dim=1).max() + bias.abs().max()
        sure = (logits > (highest - rounding(torch.float64, dim) * size)[:, None]).sum(1) == 1
        d2 = distances(truth.z, means)
        mine = d2.gather(1, at[:, None]).squeeze(1)
        least, most = (((r > 0) | ~mine.isfinite()).double() for r in ranks(d2, mine, at, dim))
        low, high = torch.where(sure, least, 0.0), torch.where(sure, most, 1.0)
        between(f"{facts}: nc4", got.nc4, low.mean(), high.mean())
    found = nc1(truth, dtype)
    if found is None:
        return
    hold(f"{facts}: nc1", got.nc1, *found)
    if dim <= 1200:
        scatter = ssk.PooledScatter.empty(c, dim).update(z.given, labels)
        hold(f"{facts}: nc1 of the scatter", ssk.neural_collapse(scatter).nc1, *found)
    mean = truth.mean[truth.filled]
    centered = mean - mean.mean(0)
    w = weight[truth.filled]
    nc3 = (w / w.norm() - centered / centered.norm()).square().sum()
    moved = truth.off_mean(dtype, int(truth.counts.max())).norm() * len(mean) ** 0.5
    allowed = 8 * (moved / centered.norm() + rounding(torch.float64))
    hold(f"{facts}: nc3", got.nc3, nc3, allowed)
