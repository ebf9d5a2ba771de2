"""Labels in memory and in one file, fitted to the rows of a source."""

import re

import numpy as np
import pytest
import torch

from sslkernels.data import DataError, open_labels, open_source

Z = np.zeros((33, 5), np.float32)
Y = np.arange(33)


@pytest.mark.parametrize(
    "labels, names",
    [
        (Y.astype(np.int16), ["labels"]),
        (Y.astype(">u4"), ["labels"]),
        (torch.arange(33), ["labels"]),
        (torch.arange(33, dtype=torch.uint8), ["labels"]),
        (list(range(33)), ["labels"]),
        (np.stack([Y, Y]), ["labels[0]", "labels[1]"]),
        ([list(range(33))] * 2, ["labels[0]", "labels[1]"]),
        ({"fine": Y, "coarse": list(range(33)), "t": torch.arange(33)}, ["fine", "coarse", "t"]),
        ({"h": np.stack([Y, Y])}, ["h[0]", "h[1]"]),
    ],
)
def test_labels_in_memory(labels, names):
    source = open_source(Z)
    found = open_labels(labels, source)
    assert list(found) == names
    for values in found.values():
        assert values.dtype == np.int64 and values.tolist() == Y.tolist()
    part = source.part(1, 2, 4)
    for values in open_labels(labels, part).values():
        assert values.tolist() == Y[part.offset : part.offset + part.rows].tolist()


@pytest.mark.parametrize("array", [Y, np.stack([Y, Y])])
def test_labels_in_a_file(tmp_path, array):
    np.save(tmp_path / "y.npy", array)
    found = open_labels(tmp_path / "y.npy", open_source(Z), name="fine")
    assert list(found) == (["fine"] if array.ndim == 1 else ["fine[0]", "fine[1]"])
    for values in found.values():
        np.testing.assert_array_equal(values, Y)


def test_rows_to_skip():
    labels = Y.copy()
    labels[4] = -7
    assert open_labels(labels, open_source(Z), ignore_index=-7)["labels"][4] == -7
    with pytest.raises(DataError, match=r"row 4 holds -7: labels are 0, 1, 2, .* or -100"):
        open_labels(labels, open_source(Z))


BAD = [
    (Y[:-1], ": 32 labels for the 33 rows of z"),
    (np.arange(34), "34 labels for the 33 rows of z"),
    (Y.astype(np.float32), "labels are integers, got float32"),
    (Y > 3, "labels are integers, got bool"),
    (np.stack([Y, Y - 1]), r"\[1\]: row 0 holds -1"),
    (np.where(Y == 9, 2**63, Y.astype(np.uint64)), "row 9 holds 9223372036854775808: too large"),
    (np.zeros((1, 33, 1), np.int64), r"shape \[N\] or \[K, N\], got \[1, 33, 1\]"),
    (np.int64(3).reshape(()), r"shape \[N\] or \[K, N\], got \[\]"),
    ([[1], [1, 2]], r"labels have shape \[N\] or \[K, N\]"),
    ([{}] * 33, "cannot read labels from list"),
    (["none.npy"], "none.npy: No such file"),
    (3.5, "labels are integers, got float64"),
    ({"a": np.stack([Y, Y]), "a[1]": Y}, r"the name 'a\[1\]' is given twice"),
]


@pytest.mark.parametrize("labels, reason", BAD)
def test_bad_labels(labels, reason):
    with pytest.raises(DataError, match=reason):
        open_labels(labels, open_source(Z))


@pytest.mark.parametrize("labels, reason", BAD[:8])
def test_bad_labels_in_a_file(tmp_path, labels, reason):
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises(DataError, match="^" + re.escape(str(tmp_path)) + ".*" + reason):
        open_labels(tmp_path / "y.npy", open_source(Z))


def test_a_dict_of_paths_and_arrays(tmp_path):
    np.save(tmp_path / "y.npy", Y)
    found = open_labels({"a": tmp_path / "y.npy", "b": Y}, open_source(Z))
    assert list(found) == ["a", "b"]


def test_a_list_of_files(tmp_path):
    np.save(tmp_path / "b.npy", Y[:20])
    np.save(tmp_path / "a.npy", Y[20:])
    found = open_labels([tmp_path / "b.npy", f"{tmp_path}/a.npy"], open_source(Z))
    assert found["labels"].tolist() == Y.tolist()
