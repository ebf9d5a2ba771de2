"""Reading ahead: the same chunks, errors where they belong, no thread left behind."""

import threading
import time

import numpy as np
import pytest
import torch

from sslkernels.data import Chunk, DataError, on_device, open_source
from sslkernels.data.device import _copied

Z = torch.arange(60, dtype=torch.float32).reshape(12, 5)


def readers():
    return [t for t in threading.enumerate() if t.name == "sslkernels read-ahead"]


@pytest.mark.parametrize("rows", [1, 5, 12, 100])
def test_the_same_chunks(tmp_path, rows):
    np.save(tmp_path / "z.npy", Z)
    for held in (Z, tmp_path / "z.npy"):
        chunks = list(on_device(open_source(held).chunks(rows), "cpu"))
        assert [c.start for c in chunks] == list(range(0, 12, rows))
        assert torch.equal(torch.cat([c.z for c in chunks]), Z)
    assert not readers()


def test_no_chunks():
    assert list(on_device([], "cpu")) == []


@pytest.mark.parametrize("after", [0, 1, 3])
def test_errors_are_raised_in_the_consumer(after):
    def failing():
        for i in range(after):
            yield Chunk(i, Z[i : i + 1])
        raise DataError("z.parquet: row 3 is null")

    seen = []
    with pytest.raises(DataError, match="row 3 is null"):
        for chunk in on_device(failing(), "cpu"):
            seen.append(chunk.start)
    assert seen == list(range(after)) and not readers()


def test_the_thread_ends_with_the_consumer():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield Chunk(0, Z)
        finally:
            closed.set()

    chunks = on_device(endless(), "cpu")
    next(chunks)
    next(chunks)
    assert readers()
    chunks.close()
    assert closed.is_set() and not readers()


def test_one_chunk_is_read_ahead_and_no_more():
    made = []

    def counted():
        for i in range(6):
            made.append(i)
            yield Chunk(i, Z)

    for i, _ in enumerate(on_device(counted(), "cpu")):
        deadline = time.monotonic() + 5
        while len(made) < min(i + 2, 6) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)
        assert len(made) == min(i + 2, 6)


def test_a_stream_is_read_in_the_callers_thread():
    class Loader:
        def __iter__(self):
            assert threading.current_thread() is threading.main_thread()
            assert not torch.is_grad_enabled()
            yield from [(Z[:5], torch.arange(5)), (Z[5:], torch.arange(7))]

    with torch.no_grad():
        chunks = list(on_device(open_source(Loader()).chunks(1), "cpu"))
    assert torch.equal(torch.cat([c.z for c in chunks]), Z)
    assert chunks[1].labels["labels"].tolist() == list(range(7))


class LateCopies:
    """A device whose copies happen as late as they may: when somebody waits for them."""

    def __init__(self):
        self.log, self.made = [], []

    def holds(self, z):
        return False

    def buffer(self, nbytes):
        self.made.append(nbytes)
        return torch.full((nbytes,), 255, dtype=torch.uint8)

    def send(self, staged):
        z = torch.full_like(staged, torch.nan)
        return z, [lambda: z.copy_(staged)]

    def finish(self, ticket):
        while ticket:
            ticket.pop()()

    def hand_over(self, z, ticket):
        self.finish(ticket)


def test_a_buffer_is_not_written_before_its_copy_has_ended():
    lane = LateCopies()
    given = open_source(Z).chunks(2)
    got = list(_copied(given, lane, torch.device("cpu")))
    assert [c.start for c in got] == [0, 2, 4, 6, 8, 10]
    assert torch.equal(torch.cat([c.z for c in got]), Z)
    assert lane.made == [40, 40]


def test_buffers_grow_and_take_any_layout():
    pieces = [Z[:1], Z[:4].t(), Z[:, ::2], Z.double(), Z[:3].bfloat16()]
    lane = LateCopies()
    given = (Chunk(i, z) for i, z in enumerate(pieces))
    for chunk, z in zip(_copied(given, lane, torch.device("cpu")), pieces, strict=True):
        assert chunk.z.dtype == z.dtype and torch.equal(chunk.z, z)


@pytest.mark.gpu
@pytest.mark.device_only
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_to_a_gpu(tmp_path):
    z = np.random.default_rng(0).normal(size=(100_000, 64)).astype(np.float32)
    np.save(tmp_path / "z.npy", z)
    total = torch.zeros(64, dtype=torch.float64, device="cuda")
    for chunk in on_device(open_source(tmp_path / "z.npy").chunks(3001), "cuda"):
        assert chunk.z.is_cuda
        torch.cuda._sleep(1_000_000)  # the computation lags behind the copies
        total += chunk.z.double().sum(0)
    np.testing.assert_allclose(total.cpu(), z.sum(0, dtype=np.float64), rtol=1e-12)
