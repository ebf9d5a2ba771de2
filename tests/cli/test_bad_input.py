"""Every mistake: one line that names the file or the option, exit status 2, nothing written."""

import os

import numpy as np
import pytest

OK = ["train.npy", "--labels", "train_fine.npy"]
TEST = ["--test", "test.npy", "--test-labels", "test_fine.npy"]

# What goes wrong: (files to write, arguments, words of the message).
CASES = {
    "missing embeddings": ({}, ["no.npy", *OK[1:]], ["no.npy", "No such file"]),
    "missing labels": ({}, ["train.npy", "--labels", "no.npy"], ["no.npy", "No such file"]),
    "missing test": ({}, [*OK, "--test", "no.npy", *TEST[2:]], ["no.npy", "No such file"]),
    "missing test labels": ({}, [*OK, *TEST[:3], "no.npy"], ["no.npy", "No such file"]),
    "object dtype": (
        {"bad": np.array([[1.0, None]], dtype=object)},
        ["bad.npy", *OK[1:]],
        ["bad.npy", "object"],
    ),
    "integers as embeddings": (
        {"bad": np.zeros((97, 8), np.int32)},
        ["bad.npy", *OK[1:]],
        ["bad.npy", "int32"],
    ),
    "one dimension": ({"bad": np.zeros(97)}, ["bad.npy", *OK[1:]], ["bad.npy", "[97]"]),
    "three dimensions": (
        {"bad": np.zeros((2, 3, 4))},
        ["bad.npy", *OK[1:]],
        ["train_fine.npy", "97 labels", "3 rows of bad.npy[0]"],
    ),
    "four dimensions": (
        {"bad": np.zeros((1, 97, 2, 2))},
        ["bad.npy", *OK[1:]],
        ["bad.npy", "[1, 97, 2, 2]"],
    ),
    "no rows": ({"bad": np.zeros((0, 8))}, ["bad.npy", *OK[1:]], ["bad.npy", "[0, 8]"]),
    "too few labels": (
        {"bad": np.zeros(96, np.int64)},
        ["train.npy", "--labels", "bad.npy"],
        ["bad.npy", "96 labels", "97 rows", "train.npy"],
    ),
    "too many test labels": (
        {"bad": np.zeros(42, np.int64)},
        [*OK, *TEST[:3], "bad.npy"],
        ["bad.npy", "42 labels", "41 rows", "test.npy"],
    ),
    "float labels": (
        {"bad": np.zeros(97)},
        ["train.npy", "--labels", "bad.npy"],
        ["bad.npy", "float64"],
    ),
    "negative label": (
        {"bad": np.array([0] * 40 + [-7] + [0] * 56)},
        ["train.npy", "--labels", "bad.npy"],
        ["bad.npy", "row 40", "-7"],
    ),
    "absurd label": (
        {"bad": np.array([0] * 96 + [10**12])},
        ["train.npy", "--labels", "bad.npy"],
        ["bad.npy", "1000000000000", "GiB"],
    ),
    "nothing but ignored labels": (
        {"bad": np.full(97, -100)},
        ["train.npy", "--labels", "bad.npy"],
        ["bad.npy", "-100"],
    ),
    "another width on test": (
        {"bad": np.zeros((41, 9), np.float32)},
        [*OK, "--test", "bad.npy", *TEST[2:]],
        ["--test", "9 columns in bad.npy", "8 in train.npy"],
    ),
    "test without its labels": ({}, [*OK, *TEST[:2]], ["--test-labels"]),
    "test labels without test": ({}, [*OK, *TEST[2:]], ["--test-labels", "--test"]),
    "unknown labeling": (
        {},
        [*OK, *TEST[:3], "coarse=test_fine.npy"],
        ["--test-labels", "'coarse'", "labels"],
    ),
    "a name twice": (
        {},
        [*OK, "--labels", "train_coarse.npy"],
        ["--labels", "'labels'", "twice", "NAME=train_coarse.npy"],
    ),
    "a name twice on test": (
        {},
        [*OK, *TEST, "--test-labels", "test_coarse.npy"],
        ["--test-labels", "'labels'", "twice"],
    ),
    "output is a file": ({}, [*OK, "--out", "train.npy"], ["train.npy", "not a folder"]),
    "output under a file": ({}, [*OK, "--out", "train.npy/x"], ["train.npy", "not a folder"]),
    "two layers of one name": ({}, ["train.npy", *OK], ["TRAIN", "'train'", "NAME=train.npy"]),
    "a layer without test rows": (
        {},
        ["a=train.npy", "b=train.npy", *OK[1:], *TEST],
        ["--test", "1 times for 2"],
    ),
    "a layer with other test rows": (
        {},
        ["a=train.npy", "b=train.npy", *OK[1:], "--test", "a=test.npy", "--test", "c=test.npy"],
        ["--test", "'a', 'b'", "'a', 'c'"],
    ),
    "a layer of other rows": (
        {},
        ["train.npy", "test.npy", *OK[1:]],
        ["train_fine.npy", "97 labels", "41 rows", "test.npy"],
    ),
    "a view of other rows": (
        {},
        [*OK, "--view", "test.npy"],
        ["--view", "41 rows in test.npy", "97 in train.npy"],
    ),
    "weights of another shape": (
        {"bad": np.zeros((6, 9))},
        [*OK, "--weights", "bad.npy"],
        ["--weights", "[6, 8]", "[6, 9]"],
    ),
    "weights of no labeling": (
        {"bad": np.zeros((6, 8))},
        [*OK, "--weights", "fine=bad.npy"],
        ["--weights", "'fine'", "'labels'"],
    ),
    "weights for one of several": (
        {"bad": np.zeros((6, 8))},
        [*OK, "--labels", "b=train_coarse.npy", "--weights", "bad.npy"],
        ["--weights", "'labels', 'b'"],
    ),
    "integer weights": (
        {"bad": np.zeros((6, 8), np.int8)},
        [*OK, "--weights", "bad.npy"],
        ["--weights", "int8"],
    ),
    "empty weights": ({"bad": np.zeros((0, 8))}, [*OK, "--weights", "bad.npy"], ["bad.npy", "[0"]),
    "a bias alone": ({"bad": np.zeros(6)}, [*OK, "--bias", "bad.npy"], ["--bias", "weight"]),
    "a bias of another length": (
        {"bad": np.zeros(5), "w": np.zeros((6, 8))},
        [*OK, "--weights", "w.npy", "--bias", "bad.npy"],
        ["--bias", "6", "[5]"],
    ),
    "top-k of words": ({}, [*OK, "--top-k", "1,five"], ["--top-k 1,five"]),
    "the zero nearest": ({}, [*OK, "--top-k", "0"], ["--top-k 0"]),
    "no shots": ({}, [*OK, "--few-shot", ""], ["--few-shot"]),
    "no repeats": ({}, [*OK, "--few-shot-repeats", "0"], ["--few-shot-repeats"]),
    "a negative seed": ({}, [*OK, "--seed", "-1"], ["--seed"]),
    "a checkpoint that is data": (
        {},
        [*OK, "--checkpoint", "train_coarse.npy"],
        ["checkpoint train_coarse.npy", "not a checkpoint"],
    ),
    "a checkpoint in no folder": (
        {},
        [*OK, "--checkpoint", "no/c"],
        ["checkpoint no/c", "No such"],
    ),
    "a checkpoint that is a folder": ({}, [*OK, "--checkpoint", "."], ["checkpoint ."]),
    "chunks of nothing": ({}, [*OK, "--chunk-rows", "0"], ["--chunk-rows"]),
    "a chunk size that is no number": ({}, [*OK, "--chunk-mb", "many"], ["--chunk-mb", "integer"]),
    "unknown option": ({}, [*OK, "--colour", "red"], ["--colour"]),
    "a device without float64": ({}, [*OK, "--device", "mps"], ["--device mps", "cuda"]),
    "unknown device": ({}, [*OK, "--device", "abacus"], ["--device abacus"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_exit_2_nothing_written(command, data, tmp_path, case):
    files, args, words = CASES[case]
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = command("report", *args)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    for word in words:
        assert word in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(command, data, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = command("report", *OK, "--out", "locked/out")
    assert code == 2
    assert "locked/out: cannot be written: Permission denied" in err


def test_a_folder_that_the_system_refuses(command, data, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    code, _, err = command("report", *OK)
    assert (code, err) == (2, "error: report: cannot be written: Permission denied\n")


def test_bad_files_are_found_before_the_first_pass(command, data, tmp_path, monkeypatch):
    monkeypatch.setattr("sslkernels.evaluation.read", None)
    (tmp_path / "test.npy").write_bytes((tmp_path / "test.npy").read_bytes()[:-1])
    code, _, err = command("report", *OK, *TEST)
    assert code == 2
    assert "test.npy: truncated" in err


@pytest.mark.parametrize("word", ["reprot", "--colour"])
def test_unknown_commands_and_options(command, word):
    code, _, err = command(word)
    assert code == 2
    assert word in err and len(err.splitlines()) == 1
