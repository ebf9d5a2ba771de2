"""Blocks of memory that rows are read into, and read into again once nobody holds them."""

import sys

import numpy as np
import pytest

from sslkernels._checks import as_tensor
from sslkernels.data import NpyFile
from sslkernels.data.blocks import _Blocks

ROWS = np.arange(400, dtype=np.float32).reshape(40, 10)

HOLDS = {
    "the array": lambda rows: rows,
    "a view": lambda rows: rows[1:, 2:],
    "a view of another dtype": lambda rows: rows.view(np.int32).reshape(-1)[3:],
    "a memoryview": memoryview,
    "a tensor": lambda rows: as_tensor(rows, "z"),
    "a tensor of a view": lambda rows: as_tensor(rows[2:], "z")[:, 3:].T,
}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("hold", HOLDS)
def test_what_is_kept_keeps_its_rows(tmp_path, hold, order):
    np.save(tmp_path / "z.npy", np.asarray(ROWS, order=order))
    cuts = list(range(0, 41, 4))
    read = NpyFile.open(tmp_path / "z.npy").read(cuts)
    kept = [HOLDS[hold](rows) for rows in read]
    for begin, held in zip(cuts, kept, strict=False):
        expected = HOLDS[hold](ROWS[begin : begin + 4].copy())
        np.testing.assert_array_equal(np.asarray(held), np.asarray(expected))


def test_a_block_is_used_again():
    blocks = _Blocks(64)
    first = blocks.lend(np.dtype(np.float32), 16)
    second = blocks.lend(np.dtype(np.float32), 16)
    places = {first.ctypes.data, second.ctypes.data}
    assert len(places) == 2
    del first, second
    for _ in range(5):
        assert blocks.lend(np.dtype(np.int16), 32).ctypes.data in places
    assert len(blocks._lent) == 2


def test_no_python_code_runs_where_rows_end():
    """An exception that a signal raises in a finalizer would be lost, and Ctrl-C with it."""
    rows = _Blocks(64).lend(np.dtype(np.uint8), 64)
    called = []
    sys.setprofile(lambda frame, event, what: called.append(frame) if event == "call" else None)
    del rows
    sys.setprofile(None)
    assert called == []
