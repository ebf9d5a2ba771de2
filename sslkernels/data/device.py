"""Chunks brought to the device that measures them, ahead of their use.

On the CPU a thread reads one chunk ahead, so that disk and decoding overlap with the computation.
For a GPU each chunk goes through one of two pinned buffers and is copied on a stream of its own
while the chunk before it is measured.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Protocol

import torch

from sslkernels.data.base import Chunk

_BUFFERS = 2


def on_device(chunks: Iterable[Chunk], device: torch.device | str) -> Iterator[Chunk]:
    """The same chunks in the same order, their tensors on ``device``.

    What reading raises is raised here. Two chunks are in memory, the one in use and the next; a
    consumer lets go of a chunk before it asks for another. A stream's batches are
    read in the caller's thread, under its settings (``torch.no_grad()``, autocast).
    """
    where = torch.device(device)
    rest = iter(chunks)
    first = next(rest, None)
    if first is None:
        return
    ahead = _ahead(first, rest) if first.labels is None else chain([first], rest)
    del first
    yield from _copied(ahead, _Cuda(where), where) if where.type == "cuda" else _moved(ahead, where)


def _moved(chunks: Iterator[Chunk], where: torch.device) -> Iterator[Chunk]:
    for chunk in chunks:
        yield _to(chunk, where)
        del chunk


def _to(chunk: Chunk, where: torch.device) -> Chunk:
    start, z, labels = chunk
    moved = None if labels is None else {key: value.to(where) for key, value in labels.items()}
    return Chunk(start, z.to(where), moved)


def _ahead(first: Chunk, rest: Iterator[Chunk]) -> Iterator[Chunk]:
    """``first``, then ``rest``, of which a thread reads one chunk while another is in use."""
    ready: queue.SimpleQueue[Chunk | BaseException | None] = queue.SimpleQueue()
    wanted = threading.Semaphore(0)
    stopped = False

    def read() -> None:
        try:
            while wanted.acquire() and not stopped:
                with torch.no_grad():  # the caller's setting, if any, is not this thread's
                    chunk = next(rest, None)
                ready.put(chunk)
                if chunk is None:
                    return
                del chunk
        except BaseException as error:  # whatever it is, the consumer has to see it
            ready.put(error)
        finally:
            close = getattr(rest, "close", None)
            if close is not None:
                close()

    reader = threading.Thread(target=read, name="sslkernels read-ahead", daemon=True)
    reader.start()
    item: Chunk | BaseException | None = first
    del first
    try:
        while item is not None:
            if isinstance(item, BaseException):
                raise item
            wanted.release()
            yield item
            item = None  # what is in use is the consumer's
            item = ready.get()
    finally:
        stopped = True
        wanted.release()
        reader.join()


class _Lane(Protocol):
    """Copies to a device that run beside its computation."""

    def holds(self, z: torch.Tensor) -> bool:
        """Whether z is on the device already."""

    def buffer(self, nbytes: int) -> torch.Tensor:
        """uint8 [nbytes] of memory that copies can start from."""

    def send(self, staged: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Queue the copy; the tensor, and a ticket for its end."""

    def finish(self, ticket: Any) -> None:
        """Wait until the copy has ended: its buffer may be written again."""

    def hand_over(self, z: torch.Tensor, ticket: Any) -> None:
        """Let the consumer's next work on the device wait for the copy."""


class _Cuda:
    def __init__(self, where: torch.device) -> None:
        self._where = where
        self._stream = torch.cuda.Stream(where)

    def holds(self, z: torch.Tensor) -> bool:
        return z.device.type == "cuda" and self._where.index in (None, z.device.index)

    def buffer(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)

    def send(self, staged: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event]:
        with torch.cuda.stream(self._stream):
            z = staged.to(self._where, non_blocking=True)
            return z, self._stream.record_event()

    def finish(self, ticket: torch.cuda.Event) -> None:
        ticket.synchronize()

    def hand_over(self, z: torch.Tensor, ticket: torch.cuda.Event) -> None:
        consumer = torch.cuda.current_stream(z.device)
        consumer.wait_event(ticket)
        z.record_stream(consumer)  # its memory is not given to a later copy before that work ends


def _copied(chunks: Iterator[Chunk], lane: _Lane, where: torch.device) -> Iterator[Chunk]:
    """Chunks through two buffers in turn; each is handed over once the next one is on its way.

    Three chunks are on the device: in use, arrived or arriving, and the one whose copy is queued.
    """
    buffers = [torch.empty(0, dtype=torch.uint8, device="cpu")] * _BUFFERS
    tickets: list[Any] = [None] * _BUFFERS
    sent = 0
    waiting: tuple[Chunk, Any] | None = None
    for chunk in chunks:
        ticket = None
        if not lane.holds(chunk.z):
            slot = sent % _BUFFERS
            sent += 1
            if tickets[slot] is not None:
                lane.finish(tickets[slot])
            if buffers[slot].nbytes < chunk.z.nbytes:
                buffers[slot] = lane.buffer(chunk.z.nbytes)
            staged = buffers[slot][: chunk.z.nbytes].view(chunk.z.dtype).view(chunk.z.shape)
            staged.copy_(chunk.z)
            z, ticket = lane.send(staged)
            tickets[slot] = ticket
            chunk = chunk._replace(z=z)
            del z
        waiting, handed = (chunk, ticket), waiting
        del chunk
        if handed is not None:
            yield _handed(*handed, lane, where)
            del handed
    if waiting is not None:
        handed, waiting = waiting, None
        yield _handed(*handed, lane, where)


def _handed(chunk: Chunk, ticket: Any, lane: _Lane, where: torch.device) -> Chunk:
    if ticket is not None:
        lane.hand_over(chunk.z, ticket)
    return _to(chunk, where)
