"""Reading .npy files: what is refused and why, and that chunks are the file's rows."""

import io
import pickle

import numpy as np
import pytest
import torch

from sslkernels.data import DataError, NpyFile, open_labels, open_source
from tests.data.holders import gathered

ROWS = np.arange(35, dtype=np.float32).reshape(7, 5)


def saved(path, array):
    np.save(path, array)
    return str(path)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_chunks_are_the_rows_in_native_order(tmp_path, rows, dtype, order):
    path = saved(tmp_path / "z.npy", np.asarray(ROWS, dtype=dtype, order=order))
    chunks = list(open_source(path).chunks(rows))
    assert [chunk.start for chunk in chunks] == list(range(0, 7, rows))
    np.testing.assert_array_equal(torch.cat([chunk.z for chunk in chunks]), ROWS)
    for chunk in chunks:
        assert str(chunk.z.dtype) == f"torch.{np.dtype(dtype[1:])}" and chunk.z.is_contiguous()


def test_version_2_headers(tmp_path):
    with open(tmp_path / "z.npy", "wb") as handle:
        np.lib.format.write_array(handle, ROWS, version=(2, 0))
    np.testing.assert_array_equal(gathered(open_source(tmp_path / "z.npy")), ROWS)


def test_a_header_that_is_not_aligned(tmp_path):
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (7, 5), }\n"
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    (tmp_path / "z.npy").write_bytes(header + ROWS.tobytes())
    assert NpyFile.open(tmp_path / "z.npy").offset % 4
    (chunk,) = open_source(tmp_path / "z.npy").chunks(7)
    assert chunk.z.data_ptr() % 4 == 0
    np.testing.assert_array_equal(chunk.z, ROWS)


def _contents():
    buffer = io.BytesIO()
    np.save(buffer, ROWS)
    good = buffer.getvalue()
    archive = io.BytesIO()
    np.savez(archive, z=ROWS)
    objects = io.BytesIO()
    np.save(objects, np.array([[1, None]], dtype=object), allow_pickle=True)
    negative = good.replace(b"(7, 5)", b"(-7,5)")
    return {
        "truncated: float32 [7, 5] takes 268 bytes, the file has 267": good[:-1],
        "truncated: the .npy header is cut short": good[:7],
        "the .npy header cannot be read": good[:40],
        "not a .npy file: it is empty": b"",
        "not a .npy file but a zip archive": archive.getvalue(),
        "not a .npy file but a pickle": pickle.dumps(ROWS),
        "dtype object": objects.getvalue(),
        "negative length": negative,
        "not a .npy file": b"label,value\n1,2\n",
        ".npy format 9.0": good[:6] + b"\x09\x00" + good[8:],
    }


@pytest.mark.parametrize("reason, content", _contents().items())
def test_bad_files_are_named_with_the_reason(tmp_path, reason, content):
    path = tmp_path / "z.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match="^" + str(path)) as caught:
        open_source(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"none\.npy: No such file"):
        NpyFile.open(tmp_path / "none.npy")
    with pytest.raises(DataError, match="directory"):
        NpyFile.open(tmp_path)


@pytest.mark.parametrize(
    "array, reason",
    [
        (np.zeros((3, 2), np.int64), "got int64"),
        (np.zeros((3, 2), np.complex64), "got complex64"),
        (np.zeros((3, 2), np.longdouble), "got"),
        (np.zeros((3, 2), "V2"), "save bfloat16 as float32"),
        (np.zeros(3, np.float32), r"got \[3\]"),
        (np.zeros((2, 3, 2, 2), np.float32), r"got \[2, 3, 2, 2\]"),
        (np.zeros((0, 2), np.float32), "no embeddings"),
        (np.zeros((3, 0), np.float32), "no embeddings"),
    ],
)
def test_arrays_that_are_not_embeddings(tmp_path, array, reason):
    with pytest.raises(DataError, match=reason):
        open_source(saved(tmp_path / "z.npy", array))


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i4", ">i4", "u4", "i8", "u8"])
def test_labels_of_any_integer_type(tmp_path, dtype):
    path = saved(tmp_path / "y.npy", np.array([0, 5, 2], dtype=dtype))
    labels = open_labels(path, open_source(ROWS[:3]))["labels"]
    assert labels.dtype == np.int64 and labels.tolist() == [0, 5, 2]


@pytest.mark.parametrize(
    "array, reason",
    [
        (np.array([0.0, 1.0, 2.0]), "labels are integers, got float64"),
        (np.array([True, False, True]), "labels are integers, got bool"),
        (np.array([[[0, 1, 2]]]), r"labels have shape \[N\] or \[K, N\], got \[1, 1, 3\]"),
        (np.array([[0], [1], [2]]), "1 labels for the 3 rows of z"),
        (np.array([0, 1]), "2 labels for the 3 rows of z"),
        (np.array([0, -100, -3]), "row 2 holds -3"),
        (np.array([0, 1, 2**63], dtype=np.uint64), "row 2 holds 9223372036854775808"),
    ],
)
def test_arrays_that_are_not_labels(tmp_path, array, reason):
    with pytest.raises(DataError, match=reason):
        open_labels(saved(tmp_path / "y.npy", array), open_source(ROWS[:3]))
