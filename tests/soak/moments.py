"""Class moments, pooled scatter, and what follows from class means alone."""

from __future__ import annotations

import torch

import sslkernels as ssk
from tests.soak.bounds import Wrong, hold, rounding, unit
from tests.soak.draws import Draw


class Truth:
    """Counts, means and scatter of classes in float64, from rows [N, D] and labels [N].

    ``range`` [D] is the most that a row differs from the mean of all in a column: sums run around
    some row or middle of the data, so their rounding is relative to that.
    """

    def __init__(self, z: torch.Tensor, labels: torch.Tensor, c: int) -> None:
        used = (labels >= 0).nonzero().squeeze(1)
        self.z, self.labels, self.num_classes = z[used], labels[used], c
        self.counts = torch.bincount(self.labels, minlength=c)
        self.filled = self.counts > 0
        anchor = self.z.mean(0) if len(used) else z.new_zeros(z.shape[1])
        sums = z.new_zeros(c, z.shape[1]).index_add_(0, self.labels, self.z - anchor)
        self.mean = anchor + sums / self.counts.clamp(min=1).unsqueeze(1)
        self.mean[~self.filled] = torch.nan
        self.residual = self.z - self.mean[self.labels]
        self.m2 = z.new_zeros(c).index_add_(0, self.labels, self.residual.square().sum(1))
        self.anchor = anchor
        self.range = (self.z - anchor).abs().amax(0) if len(used) else anchor

    def off_mean(self, dtype: torch.dtype, terms: int) -> torch.Tensor:
        """[D]: what a mean may be off by."""
        return rounding(dtype, terms) * self.range + self._off_float64()

    def _off_float64(self) -> torch.Tensor:
        return rounding(torch.float64) * (self.range + self.anchor.abs())

    def off_m2(self, dtype: torch.dtype, terms: int, *, parts: bool = False) -> torch.Tensor:
        """[C]: what the scatter may be off by: its sum, and rows around a mean that is off, which
        counts squared; where ``parts`` meet, beside the distance of their means. Runs of rows meet
        in every pass, by means in float64."""
        mean = self.off_mean(dtype, terms).norm()
        meet = 2 * (self.counts * self.m2).sqrt() * (mean if parts else self._off_float64().norm())
        return 2 * rounding(dtype, terms) * self.m2 + self.counts * mean.square() + meet


def check_moments(
    m: ssk.ClassMoments, truth: Truth, dtype: torch.dtype, facts: str, *, parts: bool = False
) -> None:
    if not torch.equal(m.counts, truth.counts):
        raise Wrong(f"{facts}: counts of {int((m.counts != truth.counts).sum())} classes")
    terms = int(truth.counts.max())
    hold(f"{facts}: means", m.centers(), truth.mean, truth.off_mean(dtype, terms))
    hold(f"{facts}: m2", m.m2, truth.m2, truth.off_m2(dtype, terms, parts=parts))


def case_class_moments(draw: Draw) -> None:
    dtype = draw.dtype()
    n, d = draw.shape(rows=1, elements=4e6)
    k = draw.pick((1, 1, 2, 3, 7, 9)) if n * d < 1e6 else draw.pick((1, 2, 3))
    sizes = [draw.size(1, max(2, min(n, 20_000))) for _ in range(k)]
    while sum(sizes) * d > 4e6:
        sizes = [max(1, c // 4) for c in sizes]
    z = draw.embeddings(n, d, dtype, spread=draw.pick((1.0, 1e-3, 50.0)), arrays=True)
    labels = torch.stack([draw.labels(n, c) for c in sizes])
    if k > 1 and draw.chance(0.5):  # nested: classes of one are unions of another's
        coarse = draw.below(sizes[1], sizes[0])
        labels[1] = torch.where(labels[0] >= 0, coarse[labels[0].clamp(min=0)], -100)
    truths = [Truth(z.exact, row, c) for row, c in zip(labels, sizes, strict=True)]
    facts = f"C = {sizes}, {z.facts}"
    way = draw.pick(("whole", "whole", "batches", "merge"))
    if way == "whole":
        found = ssk.class_moments(z.given, labels, sizes)
    else:
        cuts = draw.cuts(n, 4)
        state = torch.float64 if dtype == torch.float64 else torch.float32
        found = [ssk.ClassMoments.empty(c, d, dtype=state) for c in sizes]
        for first, last in cuts:
            for m, row, c in zip(found, labels, sizes, strict=True):
                if way == "batches":
                    m.update(z.given[first:last], row[first:last])
                else:
                    m.merge(ssk.class_moments(z.given[first:last], row[first:last], c))
    for kth, (m, truth) in enumerate(zip(found, truths, strict=True)):
        check_moments(m, truth, dtype, f"{facts}, {way}: {kth}", parts=way != "whole")
    parents = draw.below(3, sizes[0])
    above = torch.where(labels[0] >= 0, parents[labels[0].clamp(min=0)], -100)
    coarse = found[0].coarsen(parents, 3)
    check_moments(coarse, Truth(z.exact, above, 3), dtype, f"{facts}, {way}: coarsened", parts=True)


def case_scatter(draw: Draw) -> None:
    """``PooledScatter``: whole, in batches and merged; within classes and in total."""
    dtype = draw.dtype()
    n, d = draw.shape(rows=1, elements=2e6)
    while d > 1500 * max(draw.scale, 0.1) or n * d * d > 2e9:
        n, d = draw.shape(rows=1, elements=2e6)
    c = draw.size(1, max(2, min(n, 3000, int(2e6 / d))))
    labels = draw.labels(n, c)
    z = draw.embeddings(n, d, dtype, arrays=True)
    truth = Truth(z.exact, labels, c)
    facts = f"C = {c}, {z.facts}"
    cuts = draw.cuts(n, draw.pick((1, 1, 3)))
    found = ssk.PooledScatter.empty(c, d)
    merged = ssk.PooledScatter.empty(c, d)
    for first, last in cuts:
        part = z.given[first:last], labels[first:last]
        found.update(*part)
        merged.merge(ssk.PooledScatter.empty(c, d).update(*part))
    if not len(truth.z):
        return
    parts = len(cuts) > 1
    check_scatter(found, truth, dtype, f"{facts}, {len(cuts)} batches", parts=parts)
    check_scatter(merged, truth, dtype, f"{facts}, {len(cuts)} merged", parts=parts)


def check_scatter(
    found: ssk.PooledScatter, truth: Truth, dtype: torch.dtype, facts: str, *, parts: bool
) -> None:
    """Within classes, and in total.

    Products are rounded once to float64. The means that are taken off are those of class moments,
    as good as their arithmetic: their errors count squared, but where ``parts`` of the rows or
    classes meet, beside their distance.
    """
    n = len(truth.z)
    around = truth.z - truth.anchor
    off = truth.off_mean(dtype, n) * n**0.5
    reach = truth.range * n**0.5
    for name, got, want, meet in (
        ("within", found.matrix, truth.residual.T @ truth.residual, parts),
        ("total", found.total().matrix, around.T @ around, True),
    ):
        own = want.diagonal().clamp(min=0).sqrt() + off + reach
        allowed = rounding(torch.float64, n) * own.outer(own) + off.outer(off)
        if meet:
            allowed += off.outer(reach) + reach.outer(off)
        hold(f"{facts}: {name}", got, want, allowed)


def pairs(mean: torch.Tensor) -> torch.Tensor:
    """||mean_i - mean_j||^2 from differences, float64 [C, C]."""
    centered = mean - mean.mean(0)
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(centered, centered, compute_mode=exact).square()


def off_cdnv(ratio: torch.Tensor, dim: int) -> float:
    """What the mean of ``ratio`` over pairs may be off by. Products of float32 serve pairs with
    ``d2 > (||a||^2 + ||b||^2) / 4`` alone, so a pair loses four of their roundings, each pair for
    itself; rounding the means themselves moves a distance by 8 u."""
    each = 4 * rounding(torch.float32, dim) * float(ratio.norm()) / ratio.numel()
    return each + 8 * unit(torch.float32) * float(ratio.mean())


def case_cdnv(draw: Draw) -> None:
    """Pairs of class means: CDNV, its matrix, and the angles of NC2."""
    while True:
        c, d = draw.size(2, 2500), draw.size(1, 20_000)
        if c * d <= 2e6 and c * c * d <= 1e8:
            break
    mean = draw.normal(c, d) * draw.pick((1.0, 1e-3, 1e3)) + draw.pick((0, 1, 100)) * draw.normal(d)
    if c > 8 and draw.chance(0.4):  # some means nearly the same
        near = draw.below(c, c // 4)
        mean[near] = mean[(near + 1) % c] + draw.pick((1e-2, 1e-4)) * draw.normal(len(near), d)
    counts = draw.below(5, c) + (1 if draw.chance(0.5) else 0)
    counts[:2] = 3
    m2 = draw.normal(c).square() * counts * d
    state = {"counts": counts, "mean": torch.where(counts[:, None] > 0, mean, 0.0), "m2": m2}
    m = ssk.ClassMoments.empty(c, d).load_state_dict(state)
    filled = counts > 0
    mu, v = mean[filled], (m2 / counts)[filled]
    d2 = pairs(mu)
    size = len(mu)
    off = ~torch.eye(size, dtype=torch.bool)
    ratio = (v[:, None] + v) / (2 * d2)
    facts = f"C = {c}, {size} filled, D = {d}"
    matrix = torch.full((c, c), torch.nan, dtype=torch.float64)
    where = filled.nonzero()
    matrix[where, where.T] = torch.where(off, ratio, torch.nan)
    # An offset, and the scale of other means, cost digits of the distance before any product.
    reach = mu.square().sum(1).max().sqrt()
    lost = 4 * reach / d2[off].min().sqrt() * rounding(torch.float64)
    want = ratio[off].mean()
    hold(f"{facts}: cdnv", ssk.cdnv(m), want, off_cdnv(ratio[off], d) + lost * want)
    # Products in float64 of centered means: pairs that lost 4 of 16 digits come from differences.
    share = 1e4 * rounding(torch.float64, d) + lost
    hold(f"{facts}: matrix", ssk.cdnv(m, reduction="none"), matrix, share * matrix.nan_to_num())
    if size > 2:
        centered = mu - mu.mean(0)
        norms = centered.norm(dim=1)
        direction = centered / norms[:, None]
        gaps = (direction @ direction.T + 1 / (size - 1)).abs()[off].mean()
        each = rounding(torch.float32, d) / (size - 1) + 2 * unit(torch.float32)
        found = ssk.neural_collapse(m)
        near = reach / norms.min() * rounding(torch.float64)
        hold(f"{facts}: nc2 angles", found.nc2_angles, gaps, each + near)
        spread = norms.std(correction=0) / norms.mean()
        hold(f"{facts}: nc2 norms", found.nc2_norms, spread, 4 * (rounding(torch.float64) + near))
