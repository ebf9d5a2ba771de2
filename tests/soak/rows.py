"""Statistics of rows without classes: spectrum, spread of unit rows, alignment, uniformity."""

from __future__ import annotations

import math

import torch

import sslkernels as ssk
from tests.soak.bounds import hold, one_thread, rounding
from tests.soak.draws import COLUMNS, Draw
from tests.soak.moments import Truth


def unit_rows(z: torch.Tensor) -> torch.Tensor:
    """Rows of length 1; rows of zeros stay."""
    norms = z.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, z / norms, 0.0)


def normalized_std(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The value and what it may be off by: float64's rounding of the entries."""
    unit = unit_rows(z)
    centered = unit - unit.mean(0)
    value = centered.square().mean(0).sqrt().mean()
    return value, rounding(torch.float64, len(z)) * unit.square().mean(0).sqrt().mean()


def case_normalized_std(draw: Draw) -> None:
    n, d = draw.shape(rows=1, elements=4e6)
    z = draw.embeddings(n, d, draw.dtype(), arrays=True)
    if draw.chance(0.3) and isinstance(z.given, torch.Tensor) and "expanded" not in z.facts:
        z.given[draw.below(n, n // 5 + 1)] = 0
        z = z._replace(exact=z.given.double())
    hold(z.facts, ssk.normalized_std(z.given), *normalized_std(z.exact))
    found = ssk.NormalizedMoments.empty(d)
    cuts = draw.cuts(n, 3)
    for first, last in cuts:
        part = ssk.NormalizedMoments.empty(d).update(z.given[first:last])
        found.merge(part)
    hold(f"{z.facts}: merged", found.std, *normalized_std(z.exact))


def alignment(x: torch.Tensor, y: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The value and what it may be off by: unit rows in float64, whose difference cancels."""
    distance = (unit_rows(x) - unit_rows(y)).norm(dim=1)
    slope = alpha * distance.clamp(min=1e-12) ** (alpha - 1)
    return (distance**alpha).mean(), rounding(torch.float64, x.shape[1]) * 2 * slope.mean()


def case_alignment(draw: Draw) -> None:
    n, d = draw.shape(rows=1, elements=2e6)
    alpha = draw.pick((1.0, 2.0, 2.0, 3.5))
    x = draw.embeddings(n, d, draw.dtype())
    y = draw.rows(x.exact + draw.pick((0.0, 0.01, 1.0)) * draw.normal(n, d), draw.dtype())
    want = alignment(x.exact, y.exact, alpha)
    hold(f"{x.facts} and {y.facts}", ssk.alignment(x.given, y.given, alpha=alpha), *want)


def uniformity(z: torch.Tensor, t: float, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """The value and what it may be off by. An exponent -t ||u - v||^2 is off by the rounding of its
    three terms, at most 4 t together; the logarithm of a mean by no more."""
    unit = unit_rows(z)
    rows, columns = torch.triu_indices(len(z), len(z), 1)
    d2 = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").square()
    value = torch.logsumexp(-t * d2[rows, columns], 0) - math.log(len(rows))
    return value, 4 * t * rounding(dtype, z.shape[1])


def case_uniformity(draw: Draw) -> None:
    while True:
        n, d = draw.size(2, 5000), draw.size(1, COLUMNS)
        if n * n * d <= 2e8 and n * d <= 2e6 and n <= 3000:
            break
    dtype, t = draw.dtype(), draw.pick((0.5, 2.0, 2.0, 50.0))
    z = draw.embeddings(n, d, dtype, arrays=True)
    hold(f"t = {t}, {z.facts}", ssk.uniformity(z.given, t=t), *uniformity(z.exact, t, dtype))


class Spectrum:
    """What is read from eigenvalues of the covariance [R], with what each may be off by.

    Eigenvalues come from a float64 matrix: each is off by the rounding of the largest, and by what
    the rounding of the means adds to the scatter: squared, but where ``parts`` of the rows or
    classes meet, beside their distance.
    """

    def __init__(self, truth: Truth, dtype: torch.dtype, *, parts: bool = False) -> None:
        n, d = len(truth.z), truth.z.shape[1]
        kept = min(n, d)
        with one_thread():
            s = torch.linalg.svdvals(truth.residual)
        self.values = s.square() / n
        mean = truth.off_mean(dtype, n).norm()
        moved = mean.square() + (2 * mean * truth.residual.norm() / n**0.5 if parts else 0.0)
        self.off = rounding(torch.float64, n) * kept**0.5 * self.values[0] + moved
        self.off += 2.0**-52 * truth.anchor.norm() * self.values[0].sqrt()
        # sqrt(l): off by off / (2 sqrt(l)), and by sqrt(off) where that is more than there is.
        noise = torch.minimum(self.off / self.values.sqrt().clamp(min=1e-300), self.off.sqrt())
        roots = self.values.sqrt()
        total, off_total = roots.sum(), noise.sum()
        q = roots / total
        self.effective_rank = torch.exp(torch.special.entr(q).sum())
        # d(-q log q) = (-log q - 1) dq, of which the largest is at the noise itself.
        dq = noise / total + q * off_total / total
        logs = 1 - torch.log(torch.maximum(q, dq).clamp(min=1e-300))
        self.off_effective_rank = self.effective_rank * 2 * (logs * dq).sum()
        one, two = self.values.sum(), self.values.square().sum()
        self.participation = one.square() / two
        self.off_participation = self.participation * 4 * kept * self.off / one
        self.stable = one / self.values[0]
        self.off_stable = self.stable * (kept + self.stable) * self.off / one
        ranks = torch.arange(1, kept + 1).double()
        used = (ranks >= 4) & (ranks <= 100)
        used &= self.values > kept * 2.0**-52 * self.values[0]
        x, y, w = ranks[used].log(), self.values[used].log(), 1 / ranks[used]
        self.alpha = self.off_alpha = torch.tensor(torch.nan).double()
        # Eigenvalues that are rounding themselves enter or not: no digits are promised then.
        clear = self.values[:100].min() > 1e3 * self.off
        if len(x) > 1 and clear:
            x = x - (w * x).sum() / w.sum()
            self.alpha = -(w * x * y).sum() / (w * x * x).sum()
            slip = (w * x.abs() * self.off / self.values[used]).sum()
            self.off_alpha = 2 * slip / (w * x * x).sum() + 1e-12 * y.abs().max()

    def check(self, facts: str, got: ssk.Spectrum) -> None:
        hold(f"{facts}: eigenvalues", got.eigenvalues, self.values, self.off)
        hold(
            f"{facts}: effective rank",
            got.effective_rank,
            self.effective_rank,
            self.off_effective_rank,
        )
        hold(
            f"{facts}: participation",
            got.participation_ratio,
            self.participation,
            self.off_participation,
        )
        hold(f"{facts}: stable rank", got.stable_rank, self.stable, self.off_stable)
        if not self.alpha.isnan():
            hold(f"{facts}: alpha", got.alpha, self.alpha, self.off_alpha)


def rankme(z: torch.Tensor, truth: Truth, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """RankMe and what it may be off by: singular values are known to the square root of what the
    eigenvalues of Z^T Z are, 2^-26 of the largest, and what the means' rounding adds."""
    with one_thread():
        s = torch.linalg.svdvals(z)
    p = s / s.sum() + 1e-7
    value = torch.exp(-(p * p.log()).sum())
    n = len(z)
    reach = truth.anchor.norm() + truth.range.norm()
    moved = truth.off_mean(dtype, n).norm() * reach * n
    off = rounding(torch.float64, n) * len(s) ** 0.5 * s[0].square() + 2 * moved
    noise = torch.minimum(off / s.clamp(min=1e-300), off.sqrt())
    dp = noise / s.sum() + p * noise.sum() / s.sum()
    logs = 1 - torch.log(torch.maximum(p, dp))
    return value, value * 2 * (logs * dp).sum()


def case_spectrum(draw: Draw) -> None:
    dtype = draw.dtype()
    while True:
        n, d = draw.shape(rows=1, elements=1e6)
        if n * d * min(n, d) <= 2e8 and min(n, d) <= 700:
            break
    z = draw.embeddings(n, d, dtype, arrays=True)
    if draw.chance(0.5):
        labels, c = torch.zeros(n, dtype=torch.int64), 1
        got = ssk.spectrum(z.given)
    else:
        c = draw.size(1, max(2, n // 3))
        labels = draw.labels(n, c)
        got = ssk.spectrum(z.given, labels, c)
    truth = Truth(z.exact, labels, c)
    facts = f"C = {c}, {z.facts}"
    if len(truth.z) and truth.residual.abs().max() > 0 and (len(truth.z) > truth.filled.sum()):
        Spectrum(truth, dtype).check(facts, got)
    if len(truth.z):
        hold(f"{facts}: rankme", got.rankme, *rankme(truth.z, truth, dtype))
