"""Pages that are dropped with the rows that they held."""

import mmap
import sys
import time

import numpy as np
import pytest

from sslkernels._checks import as_tensor
from sslkernels.data.pages import drop_with, mapped_rows

ROWS, DIM = 4096, 256


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "z.npy", np.ones((ROWS, DIM), np.float32))
    return str(tmp_path / "z.npy")


def resident(path):
    """Bytes of the file that are mapped into this process."""
    with open("/proc/self/smaps") as lines:
        inside = False
        for line in lines:
            if "-" in line.split()[0]:
                inside = line.rstrip().endswith(path)
            elif inside and line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    return 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_go_with_the_last_tensor(path):
    chunks = mapped_rows(path, (ROWS, DIM), np.dtype(np.float32), 128, [0, ROWS])
    (chunk,) = chunks
    view = as_tensor(chunk, "z")[:, 3:]
    assert view.sum() == view.numel()
    del chunk
    time.sleep(0.2)
    before = resident(path)
    assert before >= ROWS * DIM * 4
    del view
    patience = time.monotonic() + 30
    while resident(path) > before // 4 and time.monotonic() < patience:
        time.sleep(0.01)
    assert resident(path) <= before // 4


def test_no_python_code_runs_where_rows_end(path):
    """An exception that a signal raises in a finalizer would be lost, and Ctrl-C with it."""
    with open(path, "rb") as handle:
        pages = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    rows = np.frombuffer(pages, np.uint8)
    drop_with(rows, pages)
    called = []
    sys.setprofile(lambda frame, event, what: called.append(frame) if event == "call" else None)
    del rows
    sys.setprofile(None)
    assert called == []
