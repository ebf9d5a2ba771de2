"""Rows against class centers: the nearest, scores, few shots.

Answers are shares of rows or indices. Where two float64 distances are closer than their own
rounding either answer is right, so a truth gives the least and the most that a count may be.
"""

from __future__ import annotations

import numpy as np
import torch

import sslkernels as ssk
from tests.soak.bounds import Wrong, between, hold
from tests.soak.draws import Draw, Rows
from tests.soak.moments import Truth

_DIRECT = "donot_use_mm_for_euclid_dist"


def distances(z: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Squared, from differences, float64 [N, C]; infinite for centers that are not finite."""
    finite = centers.isfinite().all(1)
    out = torch.cdist(z, torch.where(finite[:, None], centers, 0.0), compute_mode=_DIRECT).square()
    out[:, ~finite] = torch.inf
    return out


def ranks(
    d2: torch.Tensor, own: torch.Tensor, at: torch.Tensor, dim: int, moved: float = 0.0
) -> torch.Tensor:
    """[2, N]: the least and the most number of centers nearer than ``own`` [N], that of class
    ``at``; ties go to the lowest class. Centers may be off by ``moved``."""
    slack = ((dim + 16) * 2.0**-52 * own + 8 * moved * own.sqrt())[:, None]
    gap = d2 - own[:, None]
    classes = torch.arange(d2.shape[1])
    other = classes != at[:, None]
    open_ = (gap.abs() <= slack) & other
    # Distances that are equal to the last bit, as those of equal centers, have one order.
    settled = (open_ == ((gap == 0) & other)).all(1)
    lower = ((gap == 0) & (classes < at[:, None])).sum(1)
    least = ((gap < -slack) & other).sum(1)
    most = least + open_.sum(1)
    return torch.where(settled, least + lower, torch.stack([least, most]))


def clustered(draw: Draw, *, limit: float = 1e8, elements: float = 2e6) -> tuple[Rows, ...]:
    """(rows, labels, C): rows around class means, from well apart to not at all."""
    dtype = draw.dtype()
    while True:
        n, d, c = draw.size(1, 20_000), draw.size(1, 8000), draw.size(1, 4000)
        if n * d * c <= limit and max(n, c) * d <= elements:
            break
    mean = draw.normal(c, d) * draw.pick((0.0, 1e-3, 1.0)) + draw.pick((0, 0, 30)) * draw.normal(d)
    labels = draw.labels(n, c)
    z = mean[labels.clamp(min=0)] + draw.pick((0.05, 1.0, 10.0)) * draw.normal(n, d)
    rows = draw.rows(z, dtype, arrays=True)
    backwards = isinstance(rows.given, np.ndarray) and rows.given.strides[0] < 0
    return rows, labels.flip(0) if backwards else labels, c


def case_ncc_predict(draw: Draw) -> None:
    z, labels, c = clustered(draw)
    d = z.exact.shape[1]
    centers = Truth(z.exact, labels, c).mean
    if draw.chance(0.3):
        centers = draw.normal(c, d)
    centers = centers.to(draw.pick((torch.float32, torch.float64)))
    if c > 3 and draw.chance(0.3):
        centers[c // 2] = centers[0]
    facts = f"C = {c} {str(centers.dtype)[6:]}, {z.facts}"
    got = torch.as_tensor(ssk.ncc_predict(z.given, centers))
    fast = torch.as_tensor(ssk.ncc_predict(z.given, centers, precision="fast"))
    d2 = distances(z.exact, centers.double())
    usable = d2.isfinite().any(0)
    for name, found in (("exact", got), ("fast", fast)):
        wrong = (found < 0) | ~usable[found.clamp(min=0)] if usable.any() else found != -1
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise Wrong(f"{facts}: {name}: row {row} is given center {int(found[row])}")
    if not usable.any():
        return
    mine = d2.gather(1, got[:, None]).squeeze(1)
    possible = ranks(d2, mine, got, d)[0]
    if (possible > 0).any():
        row = int((possible > 0).nonzero()[0])
        raise Wrong(
            f"{facts}: row {row} is given center {int(got[row])} at {float(mine[row]):.17g}, "
            f"not {int(d2[row].argmin())} at {float(d2[row].min()):.17g}"
        )
    # Rows and centers rounded to bfloat16, whichever of them is read around a common vector.
    theirs = d2.gather(1, fast[:, None]).squeeze(1)
    reach = centers[usable].double().norm(dim=1).max() + z.exact.norm(dim=1)
    hold(f"{facts}: fast", theirs, d2.amin(1), 8 * 2.0**-8 * reach.square())


def case_ncc_scores(draw: Draw) -> None:
    z, labels, c = clustered(draw)
    m = ssk.class_moments(z.given, labels, c)
    top_k = sorted({1, draw.size(1, 8), draw.size(1, c)})
    want, alone, rows = score_bounds(z.exact, labels, m.centers(), m.counts, top_k)
    facts = f"C = {c}, top {top_k}, {z.facts}"
    own = labels[labels >= 0]
    first = [torch.zeros(c).double().index_add_(0, own, side[:, 0]) / rows for side in want]
    both = ssk.class_projections(z.given, labels, m, top_k=top_k)
    for got in (ssk.ncc_scores(z.given, labels, m, top_k=top_k), both.scores):
        for k, share in enumerate(got.top_k):
            between(f"{facts}: top {top_k[k]}", share, *want[:, :, k].mean(1))
        between(f"{facts}: leave one out", got.leave_one_out, *alone.mean(1))
        between(f"{facts}: per class", got.per_class, *first)
    accuracy = ssk.ncc_accuracy(z.given, labels, m)
    between(f"{facts}: accuracy", accuracy, *want[:, :, 0].mean(1))


def score_bounds(
    z: torch.Tensor,
    labels: torch.Tensor,
    centers: torch.Tensor,
    counts: torch.Tensor,
    top_k: list[int],
    moved: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The least and the most that is right, row by row: [2, N, K] for k of ``top_k``, [2, N] when
    the row is left out; and the rows of each class. Centers may be off by ``moved``."""
    used = labels >= 0
    z, own = z[used], labels[used]
    d2 = distances(z, centers)
    mine = d2.gather(1, own[:, None]).squeeze(1)
    least, most = ranks(d2, mine, own, z.shape[1], moved)
    want = torch.stack([torch.stack([r < k for k in top_k], 1) for r in (most, least)]).double()
    want *= mine.isfinite()[:, None]
    n = counts[own].double()
    left = mine * (n / (n - 1)).square()
    least, most = ranks(d2, torch.where(n > 1, left, torch.inf), own, z.shape[1], moved)
    alone = torch.stack([(r == 0) & (n > 1) for r in (most, least)]).double()
    return want, alone, torch.bincount(own, minlength=len(centers))


def case_few_shot(draw: Draw) -> None:
    z, labels, c = clustered(draw, limit=3e7)
    shots, repeats = draw.size(1, 20), draw.pick((1, 2, 3))
    seed = draw.luck.randrange(2**30)
    apart = draw.chance(0.5)
    test, target = z, labels
    options = {}
    if apart:
        n = draw.size(1, 2000)
        test = draw.embeddings(n, z.exact.shape[1], draw.dtype(), arrays=True)
        target = draw.labels(n, c)
        options = {"z_test": test.given, "labels_test": target}
    got = ssk.few_shot_ncc(z.given, labels, c, shots=shots, repeats=repeats, seed=seed, **options)
    known = labels.numpy()
    for repeat in range(repeats):
        order = np.random.default_rng((seed, repeat)).permutation(len(known))
        order = order[known[order] >= 0]
        order = order[np.argsort(known[order], kind="stable")]
        first = np.searchsorted(known[order], known[order])
        drawn = torch.from_numpy(np.sort(order[np.arange(len(order)) - first < shots]))
        chosen = z.given[drawn.numpy() if isinstance(z.given, np.ndarray) else drawn]
        m = ssk.class_moments(chosen, labels[drawn], c)
        asked = target >= 0
        if not apart:
            asked[drawn] = False
        d2 = distances(test.exact[asked], m.centers())
        own = target[asked]
        mine = d2.gather(1, own[:, None]).squeeze(1)
        least, most = ranks(d2, mine, own, test.exact.shape[1])
        shares = [((r == 0) & mine.isfinite()).double().mean() for r in (most, least)]
        facts = f"C = {c}, {shots} shots, repeat {repeat}, {z.facts}, test {apart and test.facts}"
        between(facts, got.accuracies[repeat], *shares)
