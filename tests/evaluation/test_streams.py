"""The numbers of ``evaluate`` are those of the float64 references, wherever the rows are cut."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels.data import DataError
from sslkernels.reference.normalized_std import normalized
from tests.evaluation.expected import expected, table
from tests.inputs import DTYPES


class Batches:
    """A DataLoader of sorts: rows and labels cut anywhere."""

    def __init__(self, z, labels, cuts):
        self.z, self.labels, self.cuts = z, labels, [0, *cuts, len(z)]

    def __iter__(self):
        for begin, end in zip(self.cuts, self.cuts[1:], strict=False):
            rows = slice(begin, end)
            yield self.z[rows], {k: torch.from_numpy(y[rows]) for k, y in self.labels.items()}


@st.composite
def problems(draw):
    """Embeddings, labelings (one of unions of classes, one with unlabelled rows), test rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    n, m, d = draw(st.integers(2, 60)), draw(st.integers(1, 20)), draw(st.integers(1, 9))
    c = draw(st.integers(1, 7))
    means = draw(st.sampled_from([0.5, 5.0])) * rng.normal(size=(c, d))
    offset = draw(st.sampled_from([0.0, 10.0]))
    labels, parts = {}, {}
    for part, rows in (("train", n), ("test", m)):
        fine = rng.integers(0, c, rows)
        parts[part] = torch.from_numpy(means[fine] + rng.normal(size=(rows, d)) + offset)
        some = np.where(rng.random(rows) < 0.3, -100, rng.integers(0, 3, rows))
        some[0] = 2
        labels[part] = {"fine": fine, "coarse": fine // 2, "some": some}
    dtype = draw(st.sampled_from(DTYPES))
    z, z_test = (parts[part].to(dtype) for part in ("train", "test"))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    return z, labels["train"], z_test, labels["test"], cuts, draw(st.integers(1, 70))


def close(found, z, labels, want, z_test=None, labels_test=None):
    """Within the rounding of means kept from float32 runs, as far as each number magnifies it; of
    NCC, within the share of rows that such a rounding could turn."""
    assert found.keys() == want.keys()
    rows = {"train": (z, labels), "test": (z_test, labels_test)}
    for key, value in want.items():
        labeling, split, statistic = key
        if statistic.endswith("alpha"):
            continue  # of eigenvalues that may be nothing but rounding; see test_alpha
        gain = condition(z, labels[labeling]) if labeling else 1.0
        if statistic == "nc1":
            gain = max(gain, flatness(z, labels[labeling]))
        if 4e-6 * gain >= 1 and np.isinf([found[key], value]).any():
            continue  # two means differ by rounding alone, and in one reading not even by that
        slack = 1e-6
        if statistic.startswith(("ncc_top", "ncc_leave")):
            x, own = rows[split]
            slack += near_ties(x, own[labeling], z, labels[labeling])
        assert found[key] == pytest.approx(value, rel=4e-6 * gain, abs=slack, nan_ok=True), key


def near_ties(x, own, z, labels):
    """The share of labelled rows x that stand as far from another center as from their own, but for
    rounding; left out of their own class or not."""
    counts = np.bincount(labels[labels >= 0], minlength=max(own.max(), labels.max()) + 1)
    means = [z[labels == c].mean(0) if n else None for c, n in enumerate(counts)]
    near = 0
    for row, c in zip(x, own, strict=True):
        if c < 0 or means[c] is None:
            continue
        d2 = [np.inf if m is None else np.square(row - m).sum() for m in means]
        left_out = d2[c] * (counts[c] / max(counts[c] - 1, 0.5)) ** 2
        size = np.square(row).sum() + max(np.square(m).sum() for m in means if m is not None)
        others = np.array([other for j, other in enumerate(d2) if j != c and np.isfinite(other)])
        near += any((np.abs(others - own_d2) < 1e-6 * size).any() for own_d2 in (d2[c], left_out))
    return near / max((own >= 0).sum(), 1)


def condition(z, labels):
    """How large the rows are beside the distances between class means."""
    z = z[labels >= 0]
    means = [z[labels[labels >= 0] == c].mean(0) for c in np.unique(labels[labels >= 0])]
    gaps = [np.linalg.norm(a - b) for a, b in itertools.combinations(means, 2)]
    return float(1 + np.linalg.norm(z, axis=1).max() / max(min(gaps, default=1.0), 1e-9))


def flatness(z, labels):
    """How large the rows are beside the direction in which the class means lie closest to a plane:
    NC1 divides by their spread along it. A tenth of it, for `close`: 4e-7 is a few roundings of
    float32 rows and means."""
    z = z[labels >= 0]
    means = np.array([z[labels[labels >= 0] == c].mean(0) for c in np.unique(labels[labels >= 0])])
    spread = np.linalg.svd(means - means.mean(0), compute_uv=False) / len(means) ** 0.5
    spread = spread[: len(means) - 1]
    spread = spread[spread > 1e-9 * spread.max(initial=0)]
    return float(np.linalg.norm(z, axis=1).max() / spread.min()) / 10 if len(spread) else 1.0


@settings(max_examples=40, deadline=None)
@given(problems())
def test_arrays_and_streams_cut_anywhere(problem):
    z, labels, z_test, labels_test, cuts, chunk_rows = problem
    sizes = {name: 1 + max(labels[name].max(), labels_test[name].max()) for name in labels}
    exact, exact_test = z.double().numpy(), z_test.double().numpy()
    want = expected(exact, labels, exact_test, labels_test, few_shot=(2,), few_shot_repeats=2)
    options = {"z_test": z_test, "chunk_rows": chunk_rows}
    shots = {"few_shot": 2, "few_shot_repeats": 2}
    found = ssk.evaluate(z, labels, labels_test=labels_test, **options, **shots)
    close(table(found), exact, labels, want, exact_test, labels_test)
    stream = Batches(z, labels, cuts)
    found = ssk.evaluate(stream, None, sizes, labels_test=labels_test, **options)
    want = {key: value for key, value in want.items() if "shot" not in key[2]}
    close(table(found), exact, labels, want, exact_test, labels_test)


@settings(max_examples=25, deadline=None)
@given(problems(), st.booleans())
def test_shards_cut_anywhere(problem, normalize):
    z, labels, _, _, cuts, chunk_rows = problem
    z = z.float() if z.dtype == torch.bfloat16 else z
    normalize &= z.shape[1] > 1  # not rows of 1 and -1 alone, all of them ties
    exact = z.double().numpy()
    want = expected(exact, labels, normalize=normalize)
    with tempfile.TemporaryDirectory() as folder:
        bounds = sorted({0, *cuts, len(z)})
        for i, (begin, end) in enumerate(itertools.pairwise(bounds)):
            rows = slice(begin, end)
            for name, values in (("z", z.numpy()), *labels.items()):
                Path(folder, name).mkdir(exist_ok=True)
                np.save(Path(folder, name, f"{name}_{i}.npy"), values[rows])
        found = ssk.evaluate(
            Path(folder, "z"),
            {name: Path(folder, name) for name in labels},
            chunk_rows=chunk_rows,
            normalize=normalize,
        )
    close(table(found), normalized(exact) if normalize else exact, labels, want)


def test_alpha():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 30)) * np.arange(1, 31) ** -0.7
    labels = {"a": rng.integers(0, 5, 400)}
    found, want = table(ssk.evaluate(z, labels, chunk_rows=90)), expected(z, labels)
    for key in ("", "train", "alpha"), ("a", "train", "within_alpha"):
        assert found[key] == pytest.approx(want[key], rel=1e-9)


def test_the_same_bits_however_often(tmp_path):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 16)).astype(np.float32)
    labels = {"a": rng.integers(0, 9, 500), "b": rng.integers(0, 4, 500)}
    runs = [ssk.evaluate(z, labels, chunk_rows=64, few_shot=2) for _ in range(2)]
    assert runs[0].rows() == runs[1].rows()
    np.save(tmp_path / "z.npy", z)
    assert ssk.evaluate(tmp_path / "z.npy", labels, chunk_rows=64, few_shot=2).rows() == (
        runs[0].rows()
    )


def test_a_row_that_is_not_finite_is_named_wherever_it_is(tmp_path):
    z = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    labels = np.arange(50) % 5
    for row in (0, 31, 49):
        bad = z.copy()
        bad[row, 1] = np.inf
        np.save(tmp_path / "z.npy", bad)
        with pytest.raises(DataError, match=rf"z\.npy: row {row} holds NaN or infinity"):
            ssk.evaluate(tmp_path / "z.npy", labels, chunk_rows=8)
        kept = np.arange(50) != row
        found = ssk.evaluate(tmp_path / "z.npy", labels, chunk_rows=8, skip_bad=True)
        want = expected(z[kept], {"labels": labels[kept]})
        want["", "train", "rows"], want["", "train", "bad_rows"] = 50, 1
        close(table(found), z[kept], {"": None, "labels": labels[kept]}, want)
