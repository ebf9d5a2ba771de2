"""``evaluate`` from memory, from files in blocks of any size, and from streams of batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sslkernels as ssk
from tests.soak.bounds import Wrong, between, hold, rounding
from tests.soak.centers import score_bounds
from tests.soak.collapse import Directional, nc1
from tests.soak.draws import Draw, Rows
from tests.soak.moments import Truth, off_cdnv, pairs
from tests.soak.rows import Spectrum, alignment, normalized_std, rankme, uniformity

Check = Callable[[Any], None]


class Expected:
    """What each number of the table must be: a check by (labeling, split, statistic)."""

    def __init__(self, facts: str) -> None:
        self.facts = facts
        self.checks: dict[tuple[str, str, str], Check] = {}

    def near(self, labeling: str, split: str, name: str, want: Any, allowed: Any) -> None:
        where = f"{self.facts}: {labeling} {split} {name}"
        self.checks[labeling, split, name] = lambda got: hold(where, got, want, allowed)

    def among(self, labeling: str, split: str, name: str, low: Any, high: Any) -> None:
        where = f"{self.facts}: {labeling} {split} {name}"
        self.checks[labeling, split, name] = lambda got: between(where, got, low, high)

    def spectrum(self, labeling: str, prefix: str, truth: Truth, dtype: torch.dtype) -> None:
        if truth.residual.abs().max() == 0 or len(truth.z) <= int(truth.filled.sum()):
            return
        found = Spectrum(truth, dtype, parts=True)
        for name, want, off in (
            ("effective_rank", found.effective_rank, found.off_effective_rank),
            ("participation_ratio", found.participation, found.off_participation),
            ("stable_rank", found.stable, found.off_stable),
            ("alpha", found.alpha, found.off_alpha),
        ):
            if not want.isnan():
                self.near(labeling, "train", prefix + name, want, off)

    def hold(self, rows: list[dict[str, Any]]) -> None:
        got = {(r["labeling"], r["split"], r["statistic"]): r["value"] for r in rows}
        if missing := self.checks.keys() - got.keys():
            raise Wrong(f"{self.facts}: the table lacks {sorted(missing)}")
        for key, check in self.checks.items():
            check(got[key])


def expected(
    facts: str,
    z: torch.Tensor,
    labels: dict[str, torch.Tensor],
    sizes: dict[str, int],
    dtype: torch.dtype,
    *,
    test: torch.Tensor | None,
    test_labels: dict[str, torch.Tensor],
    view: torch.Tensor | None,
    top_k: list[int],
) -> Expected:
    """Every statistic from its definition."""
    out = Expected(facts)
    n, d = z.shape
    whole = Truth(z, torch.zeros(n, dtype=torch.int64), 1)
    out.near("", "train", "rows", n, 0)
    out.near("", "train", "normalized_std", *normalized_std(z))
    out.near("", "train", "uniformity", *uniformity(z, 2.0, dtype))
    out.near("", "train", "rankme", *rankme(z, whole, dtype))
    out.spectrum("", "", whole, dtype)
    if view is not None:
        out.near("", "train", "alignment", *alignment(z, view, 2.0))
    for name, own in labels.items():
        c = sizes[name]
        truth = Truth(z, own, c)
        size = int(truth.filled.sum())
        out.near(name, "train", "non_empty_classes", size, 0)
        if not size:
            continue
        out.spectrum(name, "within_", truth, dtype)
        moved = float(truth.off_mean(dtype, n).norm())  # the means that are measured against
        want, alone, _ = score_bounds(z, own, truth.mean, truth.counts, top_k, moved)
        for k, at in enumerate(top_k):
            out.among(name, "train", f"ncc_top{at}", *want[:, :, k].mean(1))
        out.among(name, "train", "ncc_leave_one_out", *alone.mean(1))
        if test is not None and name in test_labels:
            given = test_labels[name]
            want, _, _ = score_bounds(test, given, truth.mean, truth.counts, top_k, moved)
            for k, at in enumerate(top_k):
                out.among(name, "test", f"ncc_top{at}", *want[:, :, k].mean(1))
        if size < 2:
            continue
        mean, v = truth.mean[truth.filled], (truth.m2 / truth.counts)[truth.filled]
        d2 = pairs(mean)
        off = ~torch.eye(size, dtype=torch.bool)
        ratio = ((v[:, None] + v) / (2 * d2))[off]
        # Means and scatter of the classes are off themselves.
        share = 2 * rounding(dtype, n) + moved**2 / v.clamp(min=1e-300).min()
        share = share + 4 * moved / d2[off].min().sqrt()
        if share < 0.1:
            allowed = off_cdnv(ratio, d) + share * ratio.mean()
            out.near(name, "train", "cdnv", ratio.mean(), allowed)
            line = Directional(truth, dtype)
            out.near(name, "train", "directional_cdnv", line.mean, line.off_mean())
        if (found := nc1(truth, dtype)) is not None:
            out.near(name, "train", "nc1", *found)
    return out


def case_evaluate(draw: Draw) -> None:
    while True:
        n, d = draw.size(2, 2000), draw.size(1, 600)
        if n * d * min(n, d) <= 1e8 and n * n * d <= 2e8:
            break
    dtype = draw.dtype()
    c = draw.size(1, max(2, min(n, 60)))
    labels = draw.labels(n, c)
    mean = draw.normal(c, d) * draw.pick((0.0, 0.3, 2.0)) + draw.pick((0, 0, 30)) * draw.normal(d)
    z = draw.rows(mean[labels.clamp(min=0)] + draw.normal(n, d), dtype)
    by_name, sizes = {"fine": labels}, {"fine": c}
    if draw.chance(0.6):
        sizes["other"] = draw.size(1, 20)
        by_name["other"] = draw.labels(n, sizes["other"])
    parents = draw.below(3, c)
    parents[0] = 2
    test = view = None
    test_labels: dict[str, torch.Tensor] = {}
    if draw.chance(0.5):
        count = draw.size(1, 500)
        test_labels = {"fine": draw.labels(count, c)}
        own = test_labels["fine"].clamp(min=0)
        test = draw.rows(mean[own] + draw.normal(count, d), dtype)
    if draw.chance(0.5):
        view = draw.rows(z.exact + 0.3 * draw.normal(n, d), dtype)
    top_k = sorted({1, draw.size(1, 6)})
    way = draw.pick(("memory", "files", "shards", "stream"))
    if dtype == torch.bfloat16 and way in ("files", "shards"):
        way = "memory"
    facts = f"C = {sizes}, {z.facts}, {way}"
    coarse = torch.where(labels >= 0, parents[labels.clamp(min=0)], -100)
    want = expected(
        facts,
        z.exact,
        {**by_name, "coarse": coarse},
        {**sizes, "coarse": 3},
        z.dtype,
        test=None if test is None else test.exact,
        test_labels=test_labels,
        view=None if view is None or way == "stream" else view.exact,
        top_k=top_k,
    )
    options = {
        "superclasses": {"coarse": parents.numpy()},
        "top_k": top_k,
        "chunk_rows": draw.size(1, n),
    }
    while n // options["chunk_rows"] > 40:
        options["chunk_rows"] *= 3
    with tempfile.TemporaryDirectory() as folder:
        given = _sources(draw, Path(folder), way, z, by_name, test, test_labels, view)
        result = ssk.evaluate(num_classes=sizes, **given, **options)
        want.hold(result.rows())


def _sources(
    draw: Draw,
    folder: Path,
    way: str,
    z: Rows,
    labels: dict[str, torch.Tensor],
    test: Rows | None,
    test_labels: dict[str, torch.Tensor],
    view: Rows | None,
) -> dict[str, Any]:
    """The same data as ``evaluate`` takes them in each way."""
    if way == "stream":
        cuts = draw.cuts(len(z.given), 3)
        batches = [
            (z.given[a:b], {name: row[a:b] for name, row in labels.items()})
            for a, b in cuts
            if b > a
        ]
        given: dict[str, Any] = {"z": batches}
        if test is not None:
            given["z_test"] = [(test.given, test_labels)]
        return given

    cuts = draw.cuts(len(z.given), draw.pick((1, 2, 4)))  # views come in equal shards

    def stored(rows: Rows, name: str) -> Any:
        if way == "memory":
            return rows.given
        values = rows.given.numpy()
        if way == "files":
            np.save(folder / f"{name}.npy", values)
            return folder / f"{name}.npy"
        shards = folder / name
        shards.mkdir()
        own = [(0, len(values))] if name == "test" else cuts
        for k, (a, b) in enumerate(own):
            if b > a:
                np.save(shards / f"{k:02}.npy", values[a:b])
        return shards

    given = {"z": stored(z, "z"), "labels": {k: v.numpy() for k, v in labels.items()}}
    if test is not None:
        given["z_test"] = stored(test, "test")
        given["labels_test"] = {k: v.numpy() for k, v in test_labels.items()}
    if view is not None:
        given["z_view"] = stored(view, "view")
    return given
