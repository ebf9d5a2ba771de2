"""Safetensors, Parquet and .pt files: what they hold and what is refused, before rows are read."""

import json

import numpy as np
import pytest
import torch

from sslkernels.data import DataError, open_labels, open_source
from tests.data.holders import gathered, save_parquet, save_pt, save_safetensors

Z = np.arange(60, dtype=np.float32).reshape(12, 5)
Y = np.arange(12)


def refused(path, reason, read=open_source):
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert reason in message and "\n" not in message
    assert message.startswith(str(path).split(":")[0])


def labels_of(path):
    return open_labels(path, open_source(Z))


@pytest.mark.parametrize("save, suffix", [(save_safetensors, "safetensors"), (save_pt, "pt")])
def test_keys(tmp_path, save, suffix):
    path = tmp_path / f"z.{suffix}"
    save(path, Z, other=torch.zeros(3, 2), y=torch.arange(12), bias=torch.zeros(5))
    refused(path, f"needs {path}:KEY, or one 2-D float tensor in the file; it holds several")
    refused(f"{path}:none", "no tensor 'none'; the file holds")
    refused(f"{path}:y", "embeddings are")
    refused(f"{path}:bias", "shape [N, D], got [5]")
    np.testing.assert_array_equal(gathered(open_source(f"{path}:z")), Z)
    assert labels_of(f"{path}:y")["labels"].tolist() == Y.tolist()
    assert labels_of(path)["labels"].tolist() == Y.tolist()
    refused(f"{path}:bias", "labels are integers", labels_of)


def _safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "not a .safetensors file"),
        (b"\x93NUMPY\x01\x00", "not a .safetensors file"),
        (_safetensors(b"{not json"), "header cannot be read"),
        (_safetensors([1, 2]), "header cannot be read"),
        (_safetensors({"z": {"dtype": "F32"}}), "header cannot be read"),
        (
            _safetensors({"z": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}),
            ":z: truncated",
        ),
        (
            _safetensors(
                {"z": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 16]}}, bytes(16)
            ),
            "the header is wrong: F32 [2, 3] does not take 16 bytes",
        ),
        (
            _safetensors(
                {"z": {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}}, bytes(16)
            ),
            "a negative length",
        ),
        (_safetensors({}), "it holds none"),
    ],
)
def test_bad_safetensors(tmp_path, content, reason):
    (tmp_path / "z.safetensors").write_bytes(content)
    refused(tmp_path / "z.safetensors", reason)


def test_safetensors_at_an_odd_offset(tmp_path):
    about = {"z": {"dtype": "F32", "shape": [12, 5], "data_offsets": [0, 240]}}
    text = json.dumps(about).encode()
    text += b" " * (1 - len(text) % 2)
    (tmp_path / "z.safetensors").write_bytes(_safetensors(text, Z.tobytes()))
    np.testing.assert_array_equal(gathered(open_source(tmp_path / "z.safetensors")), Z)


def test_bad_pt(tmp_path):
    path = tmp_path / "z.pt"
    torch.save({"z": torch.from_numpy(Z)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    refused(path, "cannot be read")
    path.write_bytes(b"hello")
    refused(path, "cannot be read")
    path.write_bytes(b"")
    refused(path, "cannot be read")
    torch.save([torch.zeros(2, 2)], path)
    refused(path, "expected a tensor or a dict of tensors, got list")
    torch.save({"model": torch.nn.Linear(2, 2)}, path)
    refused(path, "holds more than tensors")
    torch.save(torch.zeros(3, 2), path)
    refused(f"{path}:z", "no tensor 'z'; the file holds one tensor")
    refused(tmp_path / "none.pt", "No such file")


def test_a_pt_file_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(Bomb(), tmp_path / "z.pt")
    refused(tmp_path / "z.pt", "holds more than tensors")
    assert not (tmp_path / "ran").exists()


def test_parquet_columns(tmp_path):
    path = tmp_path / "z.parquet"
    names = [f"class {i}" for i in range(12)]
    save_parquet(path, Z, group=5, y=Y.astype(np.int16), coarse=Y // 3, name=names)
    np.testing.assert_array_equal(gathered(open_source(path)), Z)
    assert labels_of(f"{path}:y")["labels"].tolist() == Y.tolist()
    refused(path, "it holds several (y, coarse)", labels_of)
    refused(f"{path}:name", "labels are integers, got", labels_of)
    refused(f"{path}:none", "no column 'none'; the columns are z, y, coarse, name", labels_of)
    refused(f"{path}:none", "no column 'none'")
    refused(f"{path}:y", "embeddings are lists of float16, float32 or float64, got int16")
    assert open_source(path).locate(3) == f"{path}:z: row 3"


def _table(path, values, kind=None, **more):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"z": pa.array(values, kind)}), path, **more)


def test_parquet_rows_that_are_no_embeddings(tmp_path):
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "z.parquet"
    floats = pa.list_(pa.float32())
    _table(path, [[1.0, 2.0], [3.0]], floats)
    refused(path, "lists of different lengths: row group 0 holds 3 values in 2 rows")
    _table(path, [[1.0, 2.0]] * 2 + [[3.0]] * 2, floats, row_group_size=2)
    refused(path, "lists of different lengths: row group 1")
    _table(path, [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]], floats)  # the counts hide it
    with pytest.raises(DataError, match="z: row 1 holds 1 values, others 2"):
        gathered(open_source(path))
    _table(path, [[1.0, 2.0]] * 4 + [None, [1.0, 2.0]], pa.list_(pa.float32(), 2), row_group_size=2)
    with pytest.raises(DataError, match="z: row 4 is null"):
        gathered(open_source(path), 3)
    _table(path, [[1.0, 2.0]] * 3 + [[None, 2.0]], floats)
    with pytest.raises(DataError, match="z: row 3 holds a null"):
        gathered(open_source(path), 3)
    _table(path, [], floats)
    refused(path, "no embeddings in 0 rows")
    _table(path, [[], []], floats)
    with pytest.raises(DataError):
        gathered(open_source(path))
    _table(path, [[1, 2]], pa.list_(pa.int32()))
    refused(path, "one column of float lists in the file; it holds none")


def test_a_parquet_column_with_a_dot_in_its_name(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "z.parquet"
    lists = pa.array(Z.tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"img": Y, "img.emb": lists, "img.y": Y}), path)
    source = open_source(f"{path}:img.emb")
    np.testing.assert_array_equal(gathered(source), Z)
    assert open_labels(f"{path}:img.y", source)["labels"].tolist() == Y.tolist()


def test_parquet_labels_that_are_null(tmp_path):
    _table(tmp_path / "y.parquet", [*range(11), None])
    refused(f"{tmp_path}/y.parquet:z", "row 11 is null", labels_of)


def test_bad_parquet(tmp_path):
    path = tmp_path / "z.parquet"
    save_parquet(path, Z)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    refused(path, "cannot be read")
    path.write_bytes(b"")
    refused(path, "cannot be read")
    refused(tmp_path / "none.parquet", "No such file")
    broken = bytearray(whole)
    broken[4:60] = bytes(56)
    path.write_bytes(broken)
    with pytest.raises(DataError, match="cannot be read"):
        gathered(open_source(path))


def test_without_pyarrow(tmp_path, monkeypatch):
    import sys

    save_parquet(tmp_path / "z.parquet", Z)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(tmp_path / "z.parquet", "needs pyarrow: pip install 'sslkernels[data]'")


def test_a_npy_file_has_no_keys(tmp_path):
    np.save(tmp_path / "z.npy", Z)
    refused(f"{tmp_path}/z.npy:z", "a .npy file holds one array, not 'z'")
    np.save(tmp_path / "a:b.npy", Z)  # a colon in an existing name is no key
    assert open_source(tmp_path / "a:b.npy").rows == 12


@pytest.mark.parametrize("group", [1, 4, 5, 12])
def test_any_rows_of_a_parquet_file(tmp_path, group):
    save_parquet(tmp_path / "z.parquet", Z, group=group)
    shard = open_source(tmp_path / "z.parquet").shards[0]
    for begin in range(12):
        for end in range(begin + 1, 13):
            (z,) = shard.read([begin, end])
            np.testing.assert_array_equal(z, Z[begin:end])
