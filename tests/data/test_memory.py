"""Streaming files that are much larger than the memory it takes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.data.holders import save_parquet

pytestmark = pytest.mark.slow

MEASURE = """
import sys
import torch
from sslkernels.data import on_device, open_source

def peak():  # MB; not ru_maxrss, which a child starts with its parent's
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

path, rows, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if kind == "memmap":
    import numpy
    path = numpy.load(path, mmap_mode="r")
source = open_source(path)
next(iter(source.chunks(8))).z.sum()
total = torch.zeros(4, source.dim).double().sum(0)
before = peak()
chunks = source.chunks(rows)
for chunk in on_device(chunks, "cpu") if kind == "ahead" else chunks:
    total += chunk.z.sum(0)
print(peak() - before, float(total.sum()))
"""


def streamed(path, rows, kind):
    """``(growth of the peak memory in MB, sum of all values)`` in a process of its own."""
    command = [sys.executable, "-c", MEASURE, str(path), str(rows), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    growth, total = map(float, done.stdout.split())
    return growth, total


def sparse(path, rows, dim, header=b""):
    """A file of zeros whose last value is 1, which takes no space on most file systems."""
    with open(path, "wb") as handle:
        handle.write(header)
        handle.seek(4 * rows * dim - 4, 1)
        handle.write(np.float32(1).tobytes())


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    rows, dim = 200_000, 512  # 410 MB
    with open(folder / "head.npy", "wb") as handle:
        about = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(handle, about)
    sparse(folder / "z.npy", rows, dim, (folder / "head.npy").read_bytes())
    about = {"z": {"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, 4 * rows * dim]}}
    text = json.dumps(about).encode()
    text += b" " * (-len(text) % 8)
    sparse(folder / "z.safetensors", rows, dim, len(text).to_bytes(8, "little") + text)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("kind", ["plain", "ahead", "memmap"])
def test_a_mapped_file_takes_a_few_chunks(large, kind):
    for name in ["z.npy"] if kind == "memmap" else ["z.npy", "z.safetensors"]:
        growth, total = streamed(large / name, 4096, kind)  # chunks of 8 MB
        assert total == 1
        assert growth < 40, f"{name}: {growth} MB"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_one_large_row_group_takes_a_few_chunks(tmp_path):
    z = np.random.default_rng(0).random((75_000, 512), dtype=np.float32)  # 154 MB
    save_parquet(tmp_path / "z.parquet", z)
    growth, total = streamed(tmp_path / "z.parquet", 2048, "ahead")  # chunks of 4 MB
    assert abs(total - z.sum(dtype=np.float64)) < 100
    assert growth < 100, f"{growth} MB"
