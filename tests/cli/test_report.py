"""`sslkernels report`: its numbers are the reference's, its files appear whole or not at all."""

import csv
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from sslkernels import reference
from sslkernels.report import content, figures, style

LABELINGS = ("fine", "coarse", "chance")


def options(names=LABELINGS):
    args = ["train.npy", "--test", "test.npy"]
    for name in names:
        args += ["--labels", f"{name}=train_{name}.npy", "--test-labels", f"{name}=test_{name}.npy"]
    return args


def written(folder):
    return json.loads((folder / "report.json").read_text())


def labeling(report, name, embeddings=""):
    (found,) = (entry for entry in report["embeddings"] if entry["name"] == embeddings)
    (entry,) = (entry for entry in found["labelings"] if entry["name"] == name)
    return entry


def check(report, data, name):
    """One labeling's numbers against the reference."""
    entry = labeling(report, name)
    train, test = data[f"train_{name}"], data[f"test_{name}"]
    size = 1 + max(train.max(), test.max())
    m = reference.class_moments(data["train"], train, size)
    assert entry["classes"] == size
    assert entry["non_empty_classes"] == (m.counts > 0).sum()
    assert entry["cdnv"] == pytest.approx(float(reference.cdnv(m)), rel=1e-6)
    per_class = entry["per_class"]
    assert per_class["count_train"] == m.counts.tolist()
    variances = [np.nan if v is None else v for v in per_class["variance"]]
    np.testing.assert_allclose(variances, m.variances, rtol=1e-5)
    for part, z, labels in (("train", data["train"], train), ("test", data["test"], test)):
        assert entry[f"ncc_{part}"] == pytest.approx(float(reference.ncc_accuracy(z, labels, m)))
        hits = reference.ncc_predict(z, m) == labels
        for c, share in enumerate(per_class[f"ncc_{part}"]):
            rows = hits[labels == c]
            assert share == (pytest.approx(rows.mean()) if len(rows) else None)


@pytest.mark.parametrize("rows", [1, 7, 96, 97, 10_000])
def test_numbers_are_the_references_for_any_chunks(command, data, tmp_path, rows):
    code, out, err = command("report", *options(), "--out", "out", "--chunk-rows", rows)
    assert (code, err) == (0, "")
    report = written(tmp_path / "out")
    for name in LABELINGS:
        check(report, data, name)
        assert name in out
    assert (tmp_path / "out/report.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "out/report.csv", newline="") as file:
        for row, tidy in zip(csv.DictReader(file), report["rows"], strict=True):
            assert [*row.values()][:4] == [*tidy.values()][:4]
            got = float(row["value"])
            assert got == tidy["value"] if tidy["value"] is not None else math.isnan(got)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".npy") == ["out"]


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_number_formats_and_memory_orders(command, data, tmp_path, dtype, order):
    for part in ("train", "test"):
        array = np.asarray(data[part], dtype=dtype, order=order)
        np.save(tmp_path / f"{part}.npy", array)
        data[part] = array.astype(np.float64)
    code, _, _ = command("report", *options(("fine",)), "--out", "out", "--chunk-rows", 10)
    assert code == 0
    check(written(tmp_path / "out"), data, "fine")


def test_the_same_input_gives_the_same_bytes(command, data, tmp_path):
    for out in ("a", "b"):
        assert command("report", *options(), "--out", out)[0] == 0
    assert (tmp_path / "a/report.json").read_bytes() == (tmp_path / "b/report.json").read_bytes()


def test_one_unnamed_labeling_and_no_test_rows(command, data, tmp_path):
    code, out, _ = command("report", "train.npy", "--labels", "train_fine.npy", "--out", "deep/er")
    assert code == 0
    assert "test" not in out
    assert labeling(written(tmp_path / "deep/er"), "labels")["ncc_test"] is None


def test_unnamed_test_labels_fit_the_only_labeling(command, data, tmp_path):
    args = ["--labels", "digits=train_fine.npy", "--test", "test.npy"]
    assert command("report", "train.npy", *args, "--test-labels", "test_fine.npy")[0] == 0
    assert labeling(written(tmp_path / "report"), "digits")["ncc_test"] is not None


def test_superclasses_from_a_file(command, data, tmp_path):
    fine = np.load("train_fine.npy")
    parents = np.arange(fine.max() + 1) // 3
    np.save("parents.npy", parents)
    np.save("over.npy", np.where(fine >= 0, parents[fine.clip(0)], fine))
    given = ("report", "train.npy", "--labels", "fine=train_fine.npy")
    assert command(*given, "--superclasses", "over=parents.npy", "--out", "a")[0] == 0
    assert command(*given, "--labels", "over=over.npy", "--out", "b")[0] == 0
    a, b = (written(tmp_path / out) for out in "ab")
    assert labeling(a, "over") == labeling(b, "over")
    code, _, err = command(*given, "--superclasses", "over=over.npy")
    assert code == 2 and "--superclasses: 'over': expected" in err


def test_a_labeling_without_test_labels(command, data):
    args = [*options(("fine",)), "--labels", "chance=train_chance.npy"]
    code, out, _ = command("report", *args)
    assert code == 0
    assert out.count("–") == 2  # top-1 and top-5


def test_a_file_name_with_an_equals_sign(command, data, tmp_path):
    (tmp_path / "train_fine.npy").rename(tmp_path / "seed=1.npy")
    assert command("report", "train.npy", "--labels", "seed=1.npy")[0] == 0


@pytest.mark.parametrize("ignore", [-1, 255])
def test_another_label_to_ignore(command, data, tmp_path, ignore):
    for name in ("train_fine", "test_fine"):
        np.save(tmp_path / f"{name}.npy", np.where(data[name] == -100, ignore, data[name]))
    assert command("report", *options(("fine",)), "--ignore-label", ignore)[0] == 0
    check(written(tmp_path / "report"), data, "fine")


def test_rows_that_are_not_finite_are_named_or_left_out(command, data, tmp_path):
    data["train"][10, 2], data["train"][40, 0], data["test"][7] = np.nan, np.inf, np.nan
    for part in ("train", "test"):
        np.save(tmp_path / f"{part}.npy", data[part])
    code, _, err = command("report", *options(("chance",)), "--chunk-rows", 8)
    assert (code, err.splitlines()) == (
        2,
        ["error: train.npy: row 10 holds NaN or infinity; --skip-bad leaves such rows out"],
    )
    args = ["--chunk-rows", 8, "--skip-bad", "--out", "kept"]
    code, out, err = command("report", *options(("chance",)), *args)
    assert (code, err) == (0, "")
    assert "Left out: 2 train rows with NaN or infinity: train.npy: row 10, train.npy: row" in out
    report = written(tmp_path / "kept")
    (found,) = report["embeddings"]
    assert found["rows"] == 97
    assert found["bad_rows"] == {
        "train": {"count": 2, "first": ["train.npy: row 10", "train.npy: row 40"]},
        "test": {"count": 1, "first": ["test.npy: row 7"]},
    }
    assert {"split": "test", "statistic": "bad_rows", "value": 1}.items() <= next(
        row for row in report["rows"] if row["statistic"] == "bad_rows" and row["split"] == "test"
    ).items()
    kept = {}
    for part in ("train", "test"):
        good = np.isfinite(data[part]).all(1)
        kept[part], kept[f"{part}_chance"] = data[part][good], data[f"{part}_chance"][good]
    check(report, kept, "chance")


@pytest.mark.parametrize("classes", [1, 2, 45, 300])
def test_figures_of_few_and_many_classes(command, data, tmp_path, classes):
    labels = np.arange(97) % classes
    labels[0] = classes - 1
    np.save(tmp_path / "y.npy", labels)
    assert command("report", "train.npy", "--labels", "y.npy")[0] == 0


def fail_with(error):
    def broken(*_):
        raise error

    return broken


def test_large_matrices_are_averaged():
    values = np.arange(25.0).reshape(5, 5)
    values[4, 4] = values[0, 0] = np.nan
    shown = style.averaged(values, 2)
    assert shown[0].tolist() == [(1 + 5 + 6) / 3, (2 + 3 + 7 + 8) / 4, (4 + 9) / 2]
    assert np.isnan(shown[2, 2]) and shown[2, 0] == (20 + 21) / 2
    assert style.averaged(values, 1) is values


@pytest.mark.parametrize(
    "step, error, status",
    [
        ((figures, "report"), KeyboardInterrupt(), 130),
        ((content, "report"), OSError(28, "No space left on device"), 2),
    ],
)
def test_a_late_failure_leaves_nothing(command, data, tmp_path, monkeypatch, step, error, status):
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(*step, fail_with(error))
    code, out, err = command("report", *options(), "--out", "some/where")
    assert code == status
    assert len(err.splitlines()) == 1 and not out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_late_failure_keeps_the_earlier_report(command, data, tmp_path, monkeypatch):
    assert command("report", *options(), "--out", "out")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(figures, "report", fail_with(KeyboardInterrupt()))
    assert command("report", *options(("fine",)), "--out", "out")[0] == 130
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    monkeypatch.undo()


def test_an_unexpected_error_is_not_hidden(data, tmp_path, monkeypatch):
    from sslkernels.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "report", fail_with(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["report", *options()])
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "report.csv",
        "report.html",
        "report.json",
    ]


def test_as_a_process_with_nothing_on_stderr(data, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sslkernels", "report", *options(("fine",))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "fine" in done.stdout


def test_layers_in_one_call(command, data, tmp_path):
    """Named by their files or by the user; as one file of [L, N, D] the same."""
    for part in ("train", "test"):
        np.save(tmp_path / f"{part}2.npy", 2 * data[part] ** 2)
        np.save(tmp_path / f"both_{part}.npy", np.stack([data[part], 2 * data[part] ** 2]))
    args = [*options(), "--test", "test2.npy", "--few-shot", "1,2,3,4,5", "--top-k", "1,2,3,4"]
    args[:1] = ["train.npy", "deep=train2.npy"]
    code, out, err = command("report", *args, "--out", "a")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    report = written(tmp_path / "a")
    assert [entry["name"] for entry in report["embeddings"]] == ["train", "deep"]
    assert report["embeddings"][1]["inputs"] == {
        "train": {"path": "train2.npy", "shape": [97, 8], "dtype": "float32"},
        "test": {"path": "test2.npy", "shape": [41, 8], "dtype": "float32"},
    }
    args = [*options(), "--few-shot", "1,2,3,4,5", "--top-k", "1,2,3,4", "--out", "b"]
    args[args.index("train.npy")], args[args.index("test.npy")] = "both_train.npy", "both_test.npy"
    assert command("report", *args)[0] == 0
    rows = written(tmp_path / "b")["rows"]
    names = {"train": "0", "deep": "1"}
    assert rows == [{**row, "embeddings": names[row["embeddings"]]} for row in report["rows"]]


def test_everything_at_once_is_no_wider_than_100_columns(command, data, tmp_path):
    name, long = "a_very_long_name_of_a_labeling", "a_very_long_name_of_a_layer"
    np.save(tmp_path / "w.npy", np.ones((6, 8)))
    np.save(tmp_path / "b.npy", np.ones(6))
    args = [f"{long}=train.npy", f"{long}2=train.npy", "--labels", f"{name}=train_fine.npy"]
    args += ["--test", "test.npy"] * 2 + ["--test-labels", f"{name}=test_fine.npy"]
    args += ["--view", f"{long}=train.npy", "--view", f"{long}2=train.npy", "--few-shot", "1,20"]
    args += ["--weights", f"{name}=w.npy", "--bias", f"{name}=b.npy", "--few-shot-repeats", "2"]
    code, out, err = command("report", *args, "--normalize")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    for word in ("NC3", "NC4", "align-", "uni-", "20-shot", "a_very_long_nam…"):
        assert word in out


def test_no_labels_and_little_else(command, data, tmp_path):
    code, out, _ = command("report", "train.npy", "--out", "a")
    assert code == 0
    assert "No labels" in out and "RankMe" in out
    args = ["--no-spectrum", "--no-directional", "--uniformity-rows", 0]
    assert command("report", "train.npy", *args, "--out", "b")[0] == 0
    code, out, _ = command("report", *options(("fine",)), *args, "--out", "c")
    assert code == 0
    assert not {"RankMe", "directional", "uni-"} & set(out.split())
    check(written(tmp_path / "c"), data, "fine")


def test_shards_that_cannot_be_read(command, data, tmp_path):
    (tmp_path / "z").mkdir()
    (tmp_path / "y").mkdir()
    for i, rows in enumerate((slice(0, 30), slice(30, 60), slice(60, 97))):
        np.save(tmp_path / f"z/z_{i}.npy", data["train"][rows])
        np.save(tmp_path / f"y/y_{i}.npy", data["train_fine"][rows])
    whole = (tmp_path / "z/z_1.npy").read_bytes()
    (tmp_path / "z/z_1.npy").write_bytes(whole[:-1])
    args = ["z", "--labels", "fine=y"]
    code, _, err = command("report", *args)
    assert code == 2 and "z/z_1.npy: truncated" in err
    code, out, _ = command("report", *args, "--skip-bad")
    assert code == 0
    assert "Left out: z/z_1.npy: truncated" in " ".join(out.split())
    report = written(tmp_path / "report")
    (line,) = report["embeddings"][0]["skipped"]
    assert line.startswith("z/z_1.npy: truncated")
    kept = np.r_[0:30, 60:97]
    z, fine = data["train"][kept], data["train_fine"][kept]
    m = reference.class_moments(z, fine, 6)
    assert labeling(report, "fine")["cdnv"] == pytest.approx(float(reference.cdnv(m)), rel=1e-6)


def test_the_page_stands_alone(data, tmp_path, monkeypatch):
    from sslkernels.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["report", *options()])
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "<script" not in page
    assert "Neural collapse" in page and page.count("<table>") >= 4
