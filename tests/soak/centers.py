"""Rows against class centers: nearest center, scores, directional CDNV, few shots, NC1.

Answers are shares of rows or indices. Where two float64 distances are closer than their own
rounding either answer is right, so a truth gives the least and the most that a count may be.
"""

from __future__ import annotations

import numpy as np
import torch

import sslkernels as ssk
from tests.soak.bounds import Wrong, between, hold, rounding
from tests.soak.draws import Draw, Rows
from tests.soak.moments import Truth, pairs

_DIRECT = "donot_use_mm_for_euclid_dist"


def distances(z: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Squared, from differences, float64 [N, C]; infinite for centers that are not finite."""
    finite = centers.isfinite().all(1)
    out = torch.cdist(z, torch.where(finite[:, None], centers, 0.0), compute_mode=_DIRECT).square()
    out[:, ~finite] = torch.inf
    return out


def ranks(d2: torch.Tensor, own: torch.Tensor, at: torch.Tensor, dim: int) -> torch.Tensor:
    """[2, N]: the least and the most number of centers nearer than ``own`` [N], that of class
    ``at``; ties go to the lowest class."""
    gamma = (dim + 16) * 2.0**-52
    other = torch.arange(d2.shape[1]) != at[:, None]
    least = ((d2 < own[:, None] * (1 - gamma)) & other).sum(1)
    most = ((d2 <= own[:, None] * (1 + gamma)) & other).sum(1)
    equal = d2 == own[:, None]
    lower = (equal & (torch.arange(d2.shape[1]) < at[:, None])).sum(1)
    # Distances that are equal to the last bit, as those of equal centers, have one order.
    close = ((d2 - own[:, None]).abs() <= own[:, None] * gamma) & other
    settled = (close == (equal & other)).all(1)
    return torch.stack([torch.where(settled, least + lower, least), torch.where(settled, least + lower, most)])


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
    return draw.rows(z, dtype, arrays=True), labels, c


def _aligned(z: Rows, labels: torch.Tensor) -> torch.Tensor:
    """Labels in the order of rows that NumPy reversed."""
    return labels.flip(0) if "reversed, NumPy" in z.facts else labels


def case_ncc_predict(draw: Draw) -> None:
    z, labels, c = clustered(draw)
    n, d = z.exact.shape
    centers = Truth(z.exact, _aligned(z, labels), c).mean
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
    labels = _aligned(z, labels)
    m = ssk.class_moments(z.given, labels, c)
    top_k = sorted({1, draw.size(1, 8), draw.size(1, c)})
    want, alone, rows = score_bounds(z.exact, labels, m.centers(), m.counts, top_k)
    got = ssk.ncc_scores(z.given, labels, m, top_k=top_k)
    facts = f"C = {c}, top {top_k}, {z.facts}"
    for k, share in enumerate(got.top_k):
        between(f"{facts}: top {top_k[k]}", share, *want[:, :, k].mean(1))
    between(f"{facts}: leave one out", got.leave_one_out, *alone.mean(1))
    own = labels[labels >= 0]
    first = [torch.zeros(c).double().index_add_(0, own, side[:, 0]) / rows for side in want]
    between(f"{facts}: per class", got.per_class, *first)
    accuracy = ssk.ncc_accuracy(z.given, labels, m)
    between(f"{facts}: accuracy", accuracy, *want[:, :, 0].mean(1))


def score_bounds(
    z: torch.Tensor,
    labels: torch.Tensor,
    centers: torch.Tensor,
    counts: torch.Tensor,
    top_k: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The least and the most that is right, row by row: [2, N, K] for k of ``top_k``, [2, N] without
    the row; and the rows of each class."""
    used = labels >= 0
    z, own = z[used], labels[used]
    d2 = distances(z, centers)
    mine = d2.gather(1, own[:, None]).squeeze(1)
    least, most = ranks(d2, mine, own, z.shape[1])
    want = torch.stack([torch.stack([r < k for k in top_k], 1) for r in (most, least)]).double()
    want *= mine.isfinite()[:, None]
    n = counts[own].double()
    left = mine * (n / (n - 1)).square()
    least, most = ranks(d2, torch.where(n > 1, left, torch.inf), own, z.shape[1])
    alone = torch.stack([(r == 0) & (n > 1) for r in (most, least)]).double()
    return want, alone, torch.bincount(own, minlength=len(centers))


def directional(truth: Truth, d2: torch.Tensor) -> torch.Tensor:
    """[C, C]: mean over the rows of class i of (r . (mu_j - mu_i))^2 / d_ij^4."""
    out = torch.full_like(d2, torch.nan)
    order = truth.labels.argsort(stable=True)
    parts = truth.residual[order].split(truth.counts.tolist())
    for i in truth.filled.nonzero().squeeze(1).tolist():
        line = truth.mean - truth.mean[i]
        out[i] = (parts[i] @ line.T).square().mean(0) / d2[i].square()
        out[i, i] = torch.nan
    return out


def case_directional_cdnv(draw: Draw) -> None:
    z, labels, c = clustered(draw, limit=5e7)
    labels = _aligned(z, labels)
    while c * c * z.exact.shape[1] > 1e8:
        c = max(1, c // 2)
        labels = torch.where(labels >= 0, labels % c, -100)
    dtype = z.exact.dtype if "float64" in z.facts else torch.float32
    truth = Truth(z.exact, labels, c)
    if truth.filled.sum() < 2:
        return
    m = ssk.class_moments(z.given, labels, c)
    mean = truth.mean
    d2 = distances(torch.where(truth.filled[:, None], mean, 0.0), mean)
    d2[~truth.filled] = torch.nan
    want = directional(truth, d2)
    pair = truth.filled[:, None] & truth.filled & ~torch.eye(c, dtype=torch.bool)
    facts = f"C = {c}, {z.facts}"
    dim = z.exact.shape[1]
    # A projection t loses the rounding of ||r|| ||mu_j - g||, and of the pair's own line where
    # their distance is below 2^-5 of that: 2^5 roundings of r . line at most. What the means are off
    # by moves both ends of the line.
    n_class = truth.counts.clamp(min=1).double()
    spread = (truth.m2 / n_class).sqrt()  # root mean square of ||r||
    off = truth.off_mean(dtype, int(truth.counts.max())).norm()
    line = d2.sqrt()
    t = want.sqrt() * line.square()  # root mean square of the projections
    moved = 4 * off / line * want + 2 * want.sqrt() * (spread[:, None] * off * 2 + off * line) / d2
    def allowed(u: float) -> torch.Tensor:
        e = u * spread[:, None] * line / d2
        return 2 * want.sqrt() * e + e.square() + moved
    got = ssk.directional_cdnv(z.given, labels, m, reduction="none")
    exact = allowed(2.0**13 * rounding(torch.float64, dim))
    hold(f"{facts}: matrix", got, want, exact.nan_to_num())
    # Each row and center its own noise: over all pairs it adds up like independent errors, and
    # squared; int16 products lose 1e-4 of a projection's usual size, float32 2^5 roundings.
    u = 2.0**5 * rounding(torch.float32, dim) if dtype == torch.float32 else 2.0**13 * rounding(dtype, dim)
    share = want[pair].mean()
    noise = allowed(u)[pair]
    hold(f"{facts}: mean", ssk.directional_cdnv(z.given, labels, m), share, noise.mean())


def case_few_shot(draw: Draw) -> None:
    z, labels, c = clustered(draw, limit=3e7)
    labels = _aligned(z, labels)
    shots, repeats = draw.size(1, 20), draw.pick((1, 2, 3))
    seed = draw.luck.randrange(2**30)
    apart = draw.chance(0.5)
    test, target = z, labels
    options = {}
    if apart:
        n = draw.size(1, 2000)
        test = draw.embeddings(n, z.exact.shape[1], z.exact.dtype if 0 else torch.float32, arrays=True)
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
        m = ssk.class_moments(z.given[drawn.numpy()] if isinstance(z.given, np.ndarray) else z.given[drawn], labels[drawn], c)
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


def nc1(truth: Truth, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor] | None:
    """NC1 = sum_k (v_k^T Sigma_W v_k) / s_k^2 and what it may be off by; None where directions
    between class means are so short that it is not defined to any digits."""
    mean = truth.mean[truth.filled]
    if len(mean) < 2:
        return None
    centered = mean - mean.mean(0)
    centered = centered - centered.mean(0)
    _, s, v = torch.linalg.svd(centered, full_matrices=False)
    rank = min(len(mean) - 1, mean.shape[1])
    s, v = s[:rank], v[:rank]
    moved = truth.off_mean(dtype, int(truth.counts.max())).norm() * len(mean) ** 0.5
    if s[-1] < 100 * moved or s[-1] < 1e-4 * s[0]:
        return None
    along = (truth.residual @ v.T).square().sum(0) / len(truth.z)
    value = (along / s.square()).sum()
    projected = 2 * rounding(dtype, mean.shape[1]) * truth.m2.sum() / len(truth.z) / s.square()
    # The means are off by ``moved``: each s_k by that, and v_k by moved / s_k at most.
    off = (along / s.square() * 4 * moved / s).sum() + 2 * moved / s[-1] * value
    residual = truth.off_mean(dtype, int(truth.counts.max())).norm()
    off += ((residual / s).square() + 2 * residual / s * (along / s.square()).sqrt()).sum()
    return value, off + (projected * along.sqrt() * 0 + projected).sum()


def case_neural_collapse(draw: Draw) -> None:
    z, labels, c = clustered(draw, limit=5e7, elements=1e6)
    labels = _aligned(z, labels)
    dim = z.exact.shape[1]
    dtype = torch.float64 if "float64" in z.facts else torch.float32
    truth = Truth(z.exact, labels, c)
    weight, bias = draw.normal(c, dim), draw.normal(c)
    got = ssk.neural_collapse(z.given, labels, c, weight=weight, bias=bias)
    facts = f"C = {c}, {z.facts}"
    if len(truth.z):
        m = ssk.class_moments(z.given, labels, c)
        logits = truth.z @ weight.T + bias
        top = logits.topk(min(2, c), 1)
        sure = top.values[:, 0] - top.values[:, -1] > 1e-9 if c > 1 else torch.ones(len(logits), dtype=torch.bool)
        d2 = distances(truth.z, m.centers())
        at = top.indices[:, 0]
        least, most = ranks(d2, d2.gather(1, at[:, None]).squeeze(1), at, dim)
        differ = [((r > 0) | ~d2.gather(1, at[:, None]).squeeze(1).isfinite()).double() for r in (least, most)]
        low, high = torch.where(sure, differ[0], 0.0), torch.where(sure, differ[1], 1.0)
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
    hold(f"{facts}: nc3", got.nc3, nc3, 8 * moved / centered.norm() + 1e-13)
