"""Files that were made to break their reader: one line that names the file, soon."""

import io
import json
import os
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch

from sslkernels.data import DataError, open_labels, open_source
from tests.data.holders import save_parquet, save_pt

Z = np.arange(24, dtype=np.float32).reshape(6, 4)
HUGE = "9" * 60


def npy(header, version=(1, 0)):
    text = header.encode("latin1") if isinstance(header, str) else header
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + Z.tobytes()


def npy_of(shape="(6, 4)", descr="'<f4'", order="False"):
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


NPY = {
    "nested lists": npy("[" * 5000 + "]" * 5000),
    "nested tuples": npy_of("(" * 300 + "6" + ",)" * 300),
    "an unclosed list": npy("[" * 1000),
    "minus signs": npy_of("(" + "-" * 5000 + "6, 4)"),
    "digits": npy_of(f"({'9' * 5000}, 4)"),
    "a huge shape": npy_of(f"({HUGE}, 4)"),
    "more layers than atoms, all empty": npy_of(f"({HUGE}, 0, 4)"),
    "empty layers": npy_of("(3, 0, 4)"),
    "a huge shape of nothing": npy_of(f"({HUGE}, 0)"),
    "floats for a shape": npy_of("(6.0, 4)"),
    "a header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
    "not UTF-8": npy(b"{'descr': '\xff\xfe'}"),
    "a NUL": npy("{'descr': '\0'}"),
    "words": npy("open('/etc/passwd')"),
    "a dtype of dtypes": npy_of(descr="[('a', [('b', '<f4')])]"),
    "a dtype of 4 GB": npy_of(descr="'V4000000000'"),
    "a dtype of nothing": npy_of(descr="'V0'"),
    "no dtype": npy_of(descr="'<x9'"),
    "an end of line": npy("{'descr': '\n\n\n'}"),
    "a dict of dicts": npy("{" * 500),
}


def safetensors(header, data=bytes(96)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape="[6, 4]", offsets="[0, 96]", dtype='"F32"', more=""):
    text = f'{{"z": {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}{more}}}'
    return safetensors(text.encode())


SAFETENSORS = {
    "nested lists": safetensors(b"[" * 100_000),
    "nested objects": safetensors(b'{"z":' * 100_000),
    "a length of 2^64 - 1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "an infinite shape": tensor("[1e999, 4]"),
    "NaN for a shape": tensor("[NaN, 4]"),
    "digits": tensor(f"[{'9' * 5000}, 4]"),
    "a huge shape": tensor(f"[{HUGE}, 4]"),
    "a huge shape of nothing": tensor(f"[0, {HUGE}]", "[0, 0]"),
    "layers of nothing": tensor(f"[{HUGE}, 0, 4]", "[0, 0]"),
    "fractions": tensor("[6.5, 4]"),
    "words for a shape": tensor('"64"'),
    "truth for a shape": tensor("[true, 24]"),
    "offsets past the end": tensor(offsets=f"[{HUGE}, {HUGE}]"),
    "negative offsets": tensor(offsets="[-96, 0]"),
    "offsets turned round": tensor(offsets="[96, 0]"),
    "three offsets": tensor(offsets="[0, 96, 96]"),
    "a list for a dtype": tensor(dtype="[]"),
    "no object": tensor(more=', "y": null'),
    "a tensor twice": tensor(more=', "z": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'),
    "a shape twice": tensor('[6, 4], "shape": [4, 6]'),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
    "UTF-16": safetensors('{"z": 1}'.encode("utf-16")),
    "line ends in a name": safetensors(
        {
            name: {"dtype": "F32", "shape": [6, 4], "data_offsets": [0, 96]}
            for name in ("\n\x1b[31m", "\r")
        }
    ),
}


def zipped(pickled, records=(("data/0", bytes(96)),), **how):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as archive:
        for name, content in (("data.pkl", pickled), *records):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that are there twice
                archive.writestr(f"a/{name}", content)
    return buffer.getvalue()


def pickled(size="(I6\nI4\nt", stride="(I4\nI1\nt", offset="I0\n", record="0"):
    """What torch.save writes, of protocol 0 where a test changes it."""
    storage = f"(Vstorage\nctorch\nFloatStorage\nV{record}\nVcpu\nI24\ntQ"
    rebuild = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}{offset}{size}{stride}I00\n(dtR"
    return f"(Vz\n{rebuild}d.".encode("latin1")


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


PT = {
    "nothing but a pickle": pickle.dumps({"z": Z}),
    "nested tuples": zipped(b"(" * 100_000 + b"t" * 100_000 + b"."),
    "four billion memos": zipped(b"\x80\x04Nr\xff\xff\xff\xff."),
    "a string of 4 EB": zipped(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"."),
    "a bytearray of 8 GB": zipped(b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"."),
    "a number of 2 GB": zipped(b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"."),
    "code to run": zipped(b"cos\nsystem\n(Vtrue\ntR."),
    "code by way of a method": zipped(b"cbuiltins\ngetattr\n(Vx\nV__class__\ntR."),
    "a state for a type": zipped(b"ccollections\nOrderedDict\n(dVx\nI1\nsb."),
    "an empty pickle": zipped(b""),
    "no pickle": zipped(b"")[:0] + zipped(b".").replace(b"data.pkl", b"data.pkx"),
    "a shape past the numbers": zipped(pickled("(I7\nI4\nt")),
    "a huge shape": zipped(pickled(f"(I{HUGE}\nI4\nt")),
    "an offset past the numbers": zipped(pickled(offset="I1\n")),
    "a negative offset": zipped(pickled(offset="I-1\n")),
    "a negative stride": zipped(pickled(stride="(I-4\nI1\nt")),
    "huge strides": zipped(pickled(stride=f"(I{HUGE}\nI1\nt")),
    "one row for many": zipped(pickled(f"(I{HUGE}\nI4\nt", "(I0\nI1\nt")),
    "fewer strides": zipped(pickled(stride="(I4\nt")),
    "words for a shape": zipped(pickled(size="V64\n")),
    "no numbers": zipped(pickled(), ()),
    "numbers elsewhere": zipped(pickled(record="../../data.pkl")),
    "numbers twice": zipped(pickled(), (("data/0", bytes(96)), ("data/0", bytes(96)))),
    "compressed": zipped(pickled(), compression=zipfile.ZIP_DEFLATED),
    "only meta tensors": saved({"z": torch.empty(6, 4, device="meta")}),
    "a meta tensor": saved(torch.empty(6, 4, device="meta")),
    "sparse": saved({"z": torch.eye(3).to_sparse()}),
    "complex": saved({"z": torch.zeros(6, 4, dtype=torch.complex64)}),
    "line ends in keys": saved({key: torch.zeros(6, 4) for key in ("\n\x1b[31m", "\r")}),
}


def parquet(change):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    z = pa.FixedSizeListArray.from_arrays(pa.array(Z.reshape(-1)), 4)
    change(pa, pq, buffer, z)
    return buffer.getvalue()


def columns(names):
    """The embeddings under every name."""
    return lambda pa, pq, to, z: pq.write_table(
        pa.Table.from_arrays([z] * len(names), names=names), to
    )


def with_struct(pa, pq, to, z):
    """A struct whose field has the path of the lists' values."""
    inner = pa.StructArray.from_arrays([z], names=["element"])
    pq.write_table(pa.Table.from_arrays([inner, z], names=["z.list", "z"]), to)


def footer(change):
    def write(pa, pq, to, z):
        pq.write_table(pa.table({"z": z}), to)
        content = bytearray(to.getvalue())
        change(content)
        to.seek(0)
        to.truncate()
        to.write(content)

    return write


def claims(size):
    return footer(lambda content: content.__setitem__(slice(-8, -4), struct.pack("<I", size)))


def filled(value):
    return footer(lambda content: content.__setitem__(slice(-200, -8), bytes([value]) * 192))


PARQUET = {
    "two columns of one name": columns(["z", "z"]),
    "a column that shadows the values": columns(["z.list.element", "z"]),
    "a column after it": columns(["z", "z.x"]),
    "a struct that shadows the values": with_struct,
    "a footer of 4 GiB": claims(2**32 - 1),
    "a footer of nothing": claims(0),
    "a footer of zeros": filled(0),
    "a footer of ones": filled(255),
    "no footer": footer(lambda content: content.__delitem__(slice(-100, -8))),
    "pages of ones": footer(lambda content: content.__setitem__(slice(4, 90), b"\xff" * 86)),
}

CASES = [
    *(("npy", what, content) for what, content in NPY.items()),
    *(("safetensors", what, content) for what, content in SAFETENSORS.items()),
    *(("pt", what, content) for what, content in PT.items()),
    *(("parquet", what, change) for what, change in PARQUET.items()),
]


def refused(path, work):
    with pytest.raises(DataError) as caught:
        work()
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable() and len(message) < 2100


@pytest.mark.parametrize("read", ["embeddings", "labels"])
@pytest.mark.parametrize("suffix, what, content", CASES, ids=[f"{s}: {w}" for s, w, _ in CASES])
def test_what_stands_in_a_file(tmp_path, suffix, what, content, read):
    path = tmp_path / f"z.{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else parquet(content))
    key = ":z" if suffix == "parquet" else ""
    if read == "labels":
        refused(path, lambda: open_labels(f"{path}{key}", open_source(Z)))
    else:
        refused(path, lambda: list(open_source(f"{path}{key}").chunks(3)))


def fifo(path):
    os.mkfifo(path)


PLACES = {
    "a pipe that nobody writes to": fifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to(path.with_name("none")),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "pt", "parquet"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file(tmp_path, place, suffix):
    path = tmp_path / f"z.{suffix}"
    PLACES[place](path)
    refused(path, lambda: open_source(path))
    refused(path, lambda: open_labels(path, open_source(Z)))


@pytest.mark.parametrize("save", [save_pt, save_parquet])
def test_each_bit(tmp_path, save):
    """Right or refused, whichever bit of a file is turned: a few hundred of them."""
    path = tmp_path / ("z.pt" if save is save_pt else "z.parquet")
    save(path, Z)
    good = path.read_bytes()
    chance = np.random.default_rng(0)
    for bit in chance.choice(8 * len(good), 200, replace=False):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            assert sum(len(chunk.z) for chunk in open_source(f"{path}:z").chunks(4)) > 0
        except DataError as error:
            assert str(error).startswith(str(path))
