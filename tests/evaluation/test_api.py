"""``evaluate``: every option, what comes back, every mistake and its message."""

import csv
import json

import numpy as np
import pandas
import pytest
import torch

import sslkernels as ssk
import sslkernels.evaluation.first_pass as first_pass
from sslkernels import reference
from sslkernels.data import DataError
from sslkernels.evaluation.checkpoint import Checkpoint, Stage
from tests.evaluation.expected import assert_equal, expected, table

RNG = np.random.default_rng(0)
N, M, D, C = 150, 40, 6, 5
FINE, FINE_TEST = RNG.integers(0, C, N), RNG.integers(0, C, M)
MEANS = 3 * RNG.normal(size=(C, D))
Z, Z_TEST = (MEANS[y] + RNG.normal(size=(len(y), D)) for y in (FINE, FINE_TEST))
COARSE = FINE // 2
CHANCE = RNG.integers(0, 3, N)
WEIGHT, BIAS = RNG.normal(size=(C, D)), RNG.normal(size=C)


def test_labels_in_every_form():
    one = ssk.evaluate(Z, FINE)
    assert list(one.embeddings[""].labelings) == ["labels"]
    want = expected(Z, {"labels": FINE})
    for labels in (torch.from_numpy(FINE), FINE.tolist(), FINE.astype(np.uint8)):
        assert_equal(table(ssk.evaluate(Z, labels)), want)
    rows = np.stack([FINE, CHANCE])
    for labels in (rows, torch.from_numpy(rows), rows.tolist()):
        found = ssk.evaluate(Z, labels)
        assert_equal(table(found), expected(Z, {"labels[0]": FINE, "labels[1]": CHANCE}))
    named = {"fine": FINE, "chance": torch.from_numpy(CHANCE)}
    assert_equal(table(ssk.evaluate(Z, named)), expected(Z, {"fine": FINE, "chance": CHANCE}))


def test_without_labels():
    found = ssk.evaluate(Z)
    assert_equal(table(found), expected(Z))
    assert found.embeddings[""].labelings == {}


@pytest.mark.parametrize("order", [("fine", "coarse", "all"), ("coarse", "fine", "all")])
def test_coarser_labelings_are_merged_from_finer_ones(order, monkeypatch):
    """Exactly, and without a share in the reading: only labelings of their own are summed."""
    labels = {"fine": FINE, "coarse": COARSE, "all": 0 * FINE}
    labels = {name: labels[name] for name in order}
    kept = []
    update = first_pass.update_all
    monkeypatch.setattr(
        first_pass, "update_all", lambda m, *a, **k: (kept.append(len(m)), update(m, *a, **k))
    )
    found = ssk.evaluate(Z, labels)
    assert set(kept) == {1 if order[0] == "fine" else 2}
    assert_equal(table(found), expected(Z, labels))
    alone = {name: ssk.evaluate(Z, {name: y})[name] for name, y in labels.items()}
    for name, result in alone.items():
        assert found[name].cdnv == pytest.approx(result.cdnv, rel=1e-12, nan_ok=True)


def test_labelings_that_only_look_coarser():
    """One row off, or other rows unlabelled: summed on their own."""
    almost = COARSE.copy()
    almost[7] = 2 - almost[7]
    some = np.where(np.arange(N) == 9, -100, COARSE)
    labels = {"fine": FINE, "almost": almost, "some": some}
    assert_equal(table(ssk.evaluate(Z, labels)), expected(Z, labels))


def test_superclasses_have_no_labels_of_their_own():
    parents, some = [0, 1, 1, 0, 2], np.where(np.arange(N) % 7 == 3, -100, FINE)
    given = {"superclasses": {"over": parents}, "few_shot": (2,), "few_shot_repeats": 2}
    tested = {"z_test": Z_TEST, "labels_test": {"fine": FINE_TEST}}
    found = ssk.evaluate(Z, {"fine": some, "chance": CHANCE}, **given, **tested)
    want = reference.evaluate(Z, {"fine": some, "chance": CHANCE}, **given, **tested)
    assert_equal(table(found), want)

    class Batches:
        def __iter__(self):
            return iter(zip(np.array_split(Z, 4), np.array_split(FINE, 4), strict=True))

    found = ssk.evaluate(Batches(), num_classes=C, superclasses={"over": torch.tensor(parents)})
    assert_equal(
        table(found), reference.evaluate(Z, {"labels": FINE}, superclasses={"over": parents})
    )


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        ([0, 1], "superclasses: 'over': expected 5 integers"),
        ([0.5] * 5, "superclasses: 'over': expected 5 integers"),
        ([0, 1, -1, 0, 0], "superclasses: 'over': expected integers from 0, got -1"),
    ],
)
def test_superclasses_that_do_not_fit(parents, words):
    with pytest.raises(ValueError, match=words):
        ssk.evaluate(Z, FINE, superclasses={"over": parents})
    with pytest.raises(ValueError, match="superclasses: there is a labeling 'labels' already"):
        ssk.evaluate(Z, FINE, superclasses={"labels": [0] * 5})
    with pytest.raises(ValueError, match="superclasses: needs labels"):
        ssk.evaluate(Z, superclasses={"over": [0] * 5})


def test_test_rows_and_ignored_rows():
    train, test = np.where(FINE == 1, 255, FINE), np.where(FINE_TEST == 2, 255, FINE_TEST)
    found = ssk.evaluate(
        Z,
        {"fine": train, "chance": CHANCE},
        z_test=Z_TEST,
        labels_test={"fine": test},
        ignore_index=255,
    )
    want = expected(
        Z,
        {"fine": train, "chance": CHANCE},
        Z_TEST,
        {"fine": test},
        ignore_index=255,
        sizes={"fine": 5},
    )
    assert_equal(table(found), want)
    assert found["fine"].test.counts.tolist() == np.bincount(test[test < 255], minlength=5).tolist()
    assert found["chance"].test is None
    assert np.isnan(found["fine"].train.per_class[1])


def test_classifiers_and_views():
    view = Z + 0.1 * RNG.normal(size=Z.shape)
    labels = {"fine": FINE, "chance": CHANCE}
    given = {"fine": WEIGHT}
    found = ssk.evaluate(Z, labels, z_view=view, weight=given, bias={"fine": BIAS})
    want = expected(Z, labels, view=view, classifiers={"fine": (WEIGHT, BIAS)})
    assert_equal(table(found), want)
    alone = ssk.evaluate(torch.from_numpy(Z), FINE, weight=torch.from_numpy(WEIGHT))
    want = expected(Z, {"labels": FINE}, classifiers={"labels": (WEIGHT, None)})
    assert_equal(table(alone), want)


def test_options():
    labels = {"fine": FINE}
    options = {"top_k": (3, 2), "few_shot": (1, 4), "few_shot_repeats": 3, "seed": 7}
    found = ssk.evaluate(Z, labels, alpha_ranks=(1, 5), **options)
    options["top_k"] = (1, 2, 3)
    assert_equal(table(found), expected(Z, labels, alpha_ranks=(1, 5), **options))
    sample = ssk.evaluate(Z, labels, uniformity_rows=60)
    again, other = (ssk.evaluate(Z, uniformity_rows=60, seed=s, chunk_rows=7) for s in (0, 1))
    sample, again, other = (x.embeddings[""].uniformity for x in (sample, again, other))
    assert sample == pytest.approx(again, rel=1e-12) and sample != other
    assert sample == pytest.approx(expected(Z)["", "train", "uniformity"], rel=0.2)


@pytest.mark.parametrize("several", [False, True], ids=["products", "one scatter"])
def test_leaving_work_out(several):
    """NC1 without spectra, from whichever takes fewer operations."""
    labels = {"chance": np.minimum(CHANCE, 1)}
    if several:
        labels |= {"fine": FINE, "some": np.where(np.arange(N) % 4 == 0, -100, FINE)}
    assert several == (2 * sum(min(1 + max(y), D) for y in labels.values()) >= D)
    lean = ssk.evaluate(
        Z, labels, directional=False, spectrum=False, uniformity_rows=0, chunk_bytes=1000
    )
    gone = ("within_", "directional", "effective", "particip", "stable", "alpha", "rankme", "unif")
    want = {k: v for k, v in expected(Z, labels).items() if not k[2].startswith(gone)}
    assert_equal(table(lean), want)
    assert lean.embeddings[""].spectrum is None and lean["chance"].within is None


def test_matrices_on_request():
    labels = {"fine": FINE, "chance": CHANCE}
    assert ssk.evaluate(Z, labels)["fine"].cdnv_matrix is None
    both = ssk.evaluate(Z, labels, cdnv_matrix=True)
    m = reference.class_moments(Z, FINE, C)
    matrix = reference.cdnv(m, reduction="none")
    np.testing.assert_allclose(both["fine"].cdnv_matrix, matrix, rtol=1e-9)
    assert both["chance"].cdnv_matrix.shape == (3, 3)
    few = ssk.evaluate(Z, labels, cdnv_matrix=4)
    assert few["fine"].cdnv_matrix is None and few["chance"].cdnv_matrix is not None


def test_layers():
    layers = np.stack([Z, 2 * Z + 1, Z**2]).astype(np.float32)
    tests = np.stack([Z_TEST, 2 * Z_TEST + 1, Z_TEST**2]).astype(np.float32)
    found = ssk.evaluate(layers, FINE, z_test=tests, labels_test=FINE_TEST)
    assert list(found.embeddings) == ["0", "1", "2"]
    named = ssk.evaluate(
        {"a": layers[0], "c": torch.from_numpy(layers[2])},
        FINE,
        z_test={"c": tests[2], "a": tests[0]},
        labels_test=FINE_TEST,
    )
    for i, (z, test) in enumerate(zip(layers, tests, strict=True)):
        want = expected(z, {"labels": FINE}, test, {"labels": FINE_TEST})
        assert_equal(table(found, str(i)), want)
        if i != 1:
            assert table(named, "abc"[i]) == table(found, str(i))
    assert named["c"]["labels"].cdnv == found["2"]["labels"].cdnv


def test_the_tidy_table_in_every_form(tmp_path):
    found = ssk.evaluate({"x": Z, "y": Z}, {"one": 0 * FINE, "fine": FINE})
    rows = found.rows()
    frame = found.to_pandas()
    assert list(frame.columns) == ["embeddings", "labeling", "split", "statistic", "value"]
    pandas.testing.assert_frame_equal(frame, pandas.DataFrame(rows))
    found.to_csv(tmp_path / "r.csv")
    with open(tmp_path / "r.csv", newline="") as file:
        for got, row in zip(csv.DictReader(file), rows, strict=True):
            np.testing.assert_equal(float(got.pop("value")), float(row["value"]))
            assert got.items() <= row.items()
    found.to_json(tmp_path / "r.json")
    for got, row in zip(json.loads((tmp_path / "r.json").read_text()), rows, strict=True):
        lost = isinstance(row["value"], float) and np.isnan(row["value"])
        assert got == {**row, "value": None if lost else row["value"]}
    assert any(np.isnan(row["value"]) for row in rows)  # CDNV of one class
    with pytest.raises(FileNotFoundError):
        found.to_csv(tmp_path / "no" / "r.csv")


def test_settings_say_how_it_was_measured():
    found = ssk.evaluate(Z, FINE, top_k=(3,), few_shot=2, seed=4, chunk_rows=11, skip_bad=True)
    assert found.settings == {
        "top_k": [1, 3],
        "directional": True,
        "spectrum": True,
        "alpha_ranks": [4, 100],
        "uniformity_rows": 4096,
        "few_shot": [2],
        "few_shot_repeats": 10,
        "seed": 4,
        "normalize": False,
        "ignore_index": -100,
        "skip_bad": True,
        "chunk_rows": {"": 11},
        "device": "cpu",
        "ranks": 1,
    }


def test_on_rows_hears_of_every_chunk():
    heard = []
    ssk.evaluate(
        {"a": Z, "b": Z},
        FINE,
        z_test={"a": Z_TEST, "b": Z_TEST},
        labels_test=FINE_TEST,
        chunk_rows=100,
        on_rows=lambda *told: heard.append(told),
    )
    one = [("moments", 0, N), ("moments", 100, N), ("moments", 50, N)]
    one += [("train", *told[1:]) for told in one] + [("test", 0, M), ("test", M, M)]
    assert heard == [(name, *told) for name in "ab" for told in one]


def test_bad_rows_are_counted_and_named():
    z, test, view = Z.copy(), Z_TEST.copy(), Z.copy()
    z[[3, 77], 0], test[5, 1], view[8] = np.nan, np.inf, -np.inf
    found = ssk.evaluate(
        z, FINE, z_test=test, labels_test=FINE_TEST, z_view=view, skip_bad=True, few_shot=1
    )
    bad = found.embeddings[""].bad
    assert bad["train"] == {"count": 2, "first": ["z: row 3", "z: row 77"]}
    assert bad["test"] == {"count": 1, "first": ["z_test: row 5"]}
    assert bad["views"]["count"] == 3
    good, good_test = np.isfinite(z).all(1), np.isfinite(test).all(1)
    want = expected(
        z[good], {"labels": FINE[good]}, test[good_test], {"labels": FINE_TEST[good_test]}
    )
    got = table(found)
    for key in want.keys() - {("", "train", "rows"), ("", "test", "rows")}:
        assert got[key] == pytest.approx(want[key], rel=1e-6), key
    both = good & np.isfinite(view).all(1)
    alignment = ssk.alignment(z[both], view[both])
    assert found.embeddings[""].alignment == pytest.approx(float(alignment), rel=1e-12)
    many = np.full((60, 2), np.nan)
    many[::2] = 1.0
    listed = ssk.evaluate(many, np.arange(60) % 2 * 0, skip_bad=True).embeddings[""].bad["train"]
    assert listed["count"] == 30 and len(listed["first"]) == 20


MISTAKES = {
    "z_test alone": ({"z_test": Z_TEST}, ValueError, "z_test: needs labels_test"),
    "labels_test alone": ({"labels_test": FINE_TEST}, ValueError, "labels_test: needs z_test"),
    "unknown labeling": (
        {"z_test": Z_TEST, "labels_test": {"x": FINE_TEST}},
        DataError,
        "labels_test: no labeling 'x'; the training rows have 'labels'",
    ),
    "columns": (
        {"z_test": Z_TEST[:, 1:], "labels_test": FINE_TEST},
        DataError,
        "z_test: 5 columns in z_test, 6 in z",
    ),
    "view": ({"z_view": Z[1:]}, DataError, "z_view: 149 rows in z_view, 150 in z"),
    "view columns": ({"z_view": Z[:, 1:]}, DataError, "z_view: 5 columns"),
    "layers of view": ({"z_view": {"a": Z}}, ValueError, "z_view: expected the same sets"),
    "short labels": ({"labels": FINE[1:]}, DataError, "149 labels for the 150 rows of z"),
    "negative": ({"labels": FINE - 1}, DataError, r"labels: row \d+ holds -1"),
    "too few classes": ({"num_classes": 4}, DataError, r"labels 'labels': row \d+ holds 4"),
    "test beyond": (
        {"z_test": Z_TEST, "labels_test": FINE_TEST + 1, "num_classes": 5},
        DataError,
        r"labels_test 'labels': row \d+ holds 5: expected 0 to 4",
    ),
    "all ignored": ({"labels": FINE * 0 - 100}, DataError, "every label is -100"),
    "absurd label": ({"labels": FINE + 10**12}, DataError, "GiB; number the classes 0, 1, 2"),
    "num_classes of two": ({"num_classes": [5, 5]}, ValueError, "num_classes: expected 1 int"),
    "num_classes by name": ({"num_classes": {"x": 5}}, ValueError, "num_classes: no labeling 'x'"),
    "num_classes zero": ({"num_classes": 0}, ValueError, "num_classes"),
    "top_k": ({"top_k": (0,)}, ValueError, "top_k"),
    "alpha_ranks": (
        {"alpha_ranks": (5, 5)},
        ValueError,
        "alpha_ranks: expected a first rank below",
    ),
    "uniformity": ({"uniformity_rows": -1}, ValueError, "uniformity_rows"),
    "few_shot": ({"few_shot": 0}, ValueError, "few_shot"),
    "repeats": ({"few_shot": 1, "few_shot_repeats": 0}, ValueError, "few_shot_repeats"),
    "seed": ({"seed": -1}, ValueError, "seed"),
    "chunk_rows": ({"chunk_rows": 0}, ValueError, "chunk_rows"),
    "chunk_bytes": ({"chunk_bytes": 0}, ValueError, "chunk_bytes"),
    "matrix": ({"cdnv_matrix": -1}, ValueError, "cdnv_matrix"),
    "weight shape": ({"weight": WEIGHT[1:]}, ValueError, r"weight: expected shape \[5, 6\]"),
    "weight of what": ({"weight": {"x": WEIGHT}}, ValueError, "weight: no labeling 'x'"),
    "weight of which": (
        {"labels": {"a": FINE, "b": FINE}, "weight": WEIGHT},
        ValueError,
        r"weight: expected a mapping from labeling to array for \['a', 'b'\]",
    ),
    "bias alone": ({"bias": BIAS}, ValueError, "bias: labeling 'labels' has no weight"),
    "bias shape": ({"weight": WEIGHT, "bias": BIAS[1:]}, ValueError, "bias: expected 5"),
    "group": ({"group": "world"}, ValueError, "group: torch.distributed is not initialised"),
    "no path": ({"z": "no/such.npy"}, DataError, "no/such.npy"),
    "no embeddings": ({"z": {}}, DataError, "z: an empty dict"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_before_any_row_is_read(case, monkeypatch):
    arguments, error, words = MISTAKES[case]
    monkeypatch.setattr("sslkernels.evaluation.read", None)
    arguments = {"z": Z, "labels": FINE, **arguments}
    with pytest.raises(error, match=words):
        ssk.evaluate(**arguments)


class Loader:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_streams_need_what_they_cannot_tell(tmp_path):
    stream = Loader([(Z[:90], FINE[:90]), (Z[90:], FINE[90:])])
    found = ssk.evaluate(stream, num_classes=C, weight=WEIGHT)
    assert_equal(
        table(found), expected(Z, {"labels": FINE}, classifiers={"labels": (WEIGHT, None)})
    )
    for more, words in (
        ({"checkpoint": tmp_path / "c"}, "checkpoint: expected files or arrays"),
        ({"few_shot": 1}, "few_shot: expected files or arrays"),
    ):
        with pytest.raises(ValueError, match=words):
            ssk.evaluate(stream, num_classes=C, **more)
    pairs = ssk.evaluate(Loader([(Z, np.stack([FINE, CHANCE]))]), num_classes=(C, 3))
    assert_equal(table(pairs), expected(Z, {"labels[0]": FINE, "labels[1]": CHANCE}))
    kept = ssk.evaluate(iter(stream), num_classes=C, spool=tmp_path / "kept", few_shot=1)
    assert kept["labels"].cdnv == pytest.approx(found["labels"].cdnv)


def test_a_checkpoint_that_is_finished_is_the_result(tmp_path, monkeypatch):
    how = {"checkpoint": tmp_path / "c", "few_shot": 1, "cdnv_matrix": True}
    first = ssk.evaluate({"a": Z, "b": -Z}, FINE, **how)
    monkeypatch.setattr("sslkernels.evaluation.read", None)
    again = ssk.evaluate({"a": Z, "b": -Z}, FINE, **how)
    assert again.rows() == first.rows()
    np.testing.assert_array_equal(
        again["b"]["labels"].cdnv_matrix, first["b"]["labels"].cdnv_matrix
    )
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY", b"plain words"])
def test_a_checkpoint_that_is_something_else(tmp_path, text):
    (tmp_path / "c").write_bytes(text)
    with pytest.raises(DataError, match="not a checkpoint"):
        ssk.evaluate(Z, FINE, checkpoint=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == text


def test_stages_of_another_source_are_not_taken(tmp_path):
    """A rank stopped in the second source while another had to finish the first again."""
    checkpoint = Checkpoint(tmp_path / "c", {"run": 1}, 0.0)
    checkpoint.begin("a")
    checkpoint.keep("moments", Stage(3, rows=5, sums={"x": torch.ones(2)}))
    again = Checkpoint(tmp_path / "c", {"run": 1}, 0.0)
    again.begin("a")
    assert again.stages["moments"].chunks == 3
    again.begin("b")
    assert again.stages == {}


def test_a_notebook_shows_a_table():
    labels = torch.arange(60) % 3
    z = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    result = ssk.evaluate({"<layer>": z}, {"fine": labels}, directional=False)
    shown = result._repr_html_()
    accuracy = result["<layer>"]["fine"].train.accuracy
    assert "&lt;layer&gt;" in shown and f"{100 * accuracy:.2f} %" in shown
