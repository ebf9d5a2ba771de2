"""What every source of embeddings offers: its size, and its rows in chunks.

A source is a sequence of shards (files, or arrays in memory) read one after another. Each shard is
cut at multiples of the chunk size from its own start, so that the chunks, and with them every
rounding of what is summed over them, depend on the files and the chunk size alone: not on where a
reader started, nor on how many processes share the files.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch


class Chunk(NamedTuple):
    """Consecutive rows of a source."""

    start: int  # row of the source, or of the part, that z[0] is
    z: torch.Tensor  # [n, D]
    labels: Mapping[str, torch.Tensor] | None = None  # int64 [n] each: from streams only


class Shard(ABC):
    """Rows kept in one place."""

    name: str
    rows: int
    dim: int
    dtype: torch.dtype
    path: str | None = None  # of the file among several
    number: int | None = None  # 12 of img_emb_12.npy

    @abstractmethod
    def read(self, cuts: Sequence[int]) -> Iterator[torch.Tensor]:
        """Rows ``cuts[0]:cuts[1]``, ``cuts[1]:cuts[2]``, ... , each [n, D]."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this shard from another: JSON-able, equal if nothing has changed."""


class Source(ABC):
    """Embeddings [rows, dim] that are read in chunks."""

    name: str
    rows: int | None  # None: a stream whose length is not known yet
    dim: int | None
    dtype: torch.dtype | None
    labels: Mapping[str, np.ndarray]  # int64 [rows] each: found beside the data
    skipped: list[str]  # one line for everything that was left out
    offset: int = 0  # of a part: rows of the whole source before it
    private: bool = False  # these rows are this process's own: other ranks have others

    @property
    def row_bytes(self) -> int | None:
        if self.dim is None or self.dtype is None:
            return None
        return self.dim * self.dtype.itemsize

    @abstractmethod
    def chunks(self, rows: int, first: int = 0) -> Iterator[Chunk]:
        """Chunks of at most ``rows`` rows, from the ``first`` one on, the skipped ones not read."""

    @abstractmethod
    def num_chunks(self, rows: int) -> int | None:
        """How many chunks ``chunks(rows)`` yields, if that is known."""

    @abstractmethod
    def part(self, rank: int, world: int, rows: int) -> Source:
        """The ``rank``-th of ``world`` contiguous shares of the chunks, balanced by rows.

        Its chunks of ``rows`` rows are those of the whole; row 0 of the part is row ``offset`` of
        the whole.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells these data from others: JSON-able, equal if nothing has changed."""

    @abstractmethod
    def locate(self, row: int) -> str:
        """``"FILE: row 17"`` of a row of the source."""


@dataclass(frozen=True)
class Piece:
    """Rows ``begin:end`` of a shard."""

    shard: Shard
    begin: int
    end: int

    @property
    def rows(self) -> int:
        return self.end - self.begin

    def cuts(self, rows: int) -> list[int]:
        inner = range((self.begin // rows + 1) * rows, self.end, rows)
        return [self.begin, *inner, self.end] if self.rows else []

    def count(self, rows: int) -> int:
        return -(-self.end // rows) - self.begin // rows if self.rows else 0


@dataclass(frozen=True)
class LeftOut:
    """A shard that was left out, and where its rows would have been."""

    name: str
    number: int | None
    before: int  # rows of the source before it
    rows: int | None  # None: its header cannot be read


class ShardSource(Source):
    """Shards, or rows of them, in order."""

    def __init__(
        self,
        name: str,
        pieces: Sequence[Piece],
        *,
        labels: Mapping[str, np.ndarray] | None = None,
        skipped: list[str] | None = None,
        left_out: Sequence[LeftOut] = (),
        offset: int = 0,
        whole: ShardSource | None = None,
    ) -> None:
        self.name = name
        self.pieces = tuple(pieces)
        self.rows: int = sum(piece.rows for piece in pieces)
        self.dim: int = pieces[0].shard.dim
        self.dtype: torch.dtype = pieces[0].shard.dtype
        self.labels = labels or {}
        self.skipped = [] if skipped is None else skipped
        self.left_out = tuple(left_out)
        self.offset = offset
        self.whole = whole or self

    @classmethod
    def of(cls, name: str, shards: Sequence[Shard], **more: Any) -> ShardSource:
        return cls(name, [Piece(shard, 0, shard.rows) for shard in shards], **more)

    @property
    def shards(self) -> list[Shard]:
        return [piece.shard for piece in self.pieces]

    def chunks(self, rows: int, first: int = 0) -> Iterator[Chunk]:
        _check_rows(rows)
        start = 0
        for piece in self.pieces:
            cuts = piece.cuts(rows)
            count = max(len(cuts) - 1, 0)
            skip = min(first, count)
            first -= skip
            if skip < count:
                here = start - piece.begin
                begins = iter(cuts[skip:-1])
                for z in piece.shard.read(cuts[skip:]):
                    yield Chunk(here + next(begins), z)
                    del z  # the consumer's reference is the last one
            start += piece.rows

    def num_chunks(self, rows: int) -> int:
        _check_rows(rows)
        return sum(piece.count(rows) for piece in self.pieces)

    def part(self, rank: int, world: int, rows: int) -> ShardSource:
        if not 0 <= rank < world:
            raise ValueError(f"rank: expected 0 to {world - 1}, got {rank}")
        _check_rows(rows)
        begin, end = (self._border(self.rows * r // world, rows) for r in (rank, rank + 1))
        pieces, start = [], 0
        for piece in self.pieces:
            low, high = max(begin - start, 0), min(end - start, piece.rows)
            if low < high:
                pieces.append(replace(piece, begin=piece.begin + low, end=piece.begin + high))
            start += piece.rows
        return ShardSource(
            self.name,
            pieces or [replace(self.pieces[0], end=self.pieces[0].begin)],  # more ranks than chunks
            labels={name: values[begin:end] for name, values in self.labels.items()},
            skipped=self.skipped,  # the same list: what labels leave out is added to it
            left_out=self.left_out,
            offset=self.offset + begin,
            whole=self.whole,
        )

    def _border(self, row: int, rows: int) -> int:
        """The border between chunks that is nearest to a row; the earlier of two."""
        start = 0
        for piece in self.pieces:
            if row <= start + piece.rows:
                cuts = piece.cuts(rows) or [piece.begin]
                inside = row - start + piece.begin
                i = bisect.bisect_left(cuts, inside)
                i -= i > 0 and inside - cuts[i - 1] <= cuts[i] - inside
                return start + cuts[i] - piece.begin
            start += piece.rows
        return start

    def identity(self) -> dict[str, Any]:
        seen: list[dict[str, Any]] = []
        for piece in self.pieces:
            about = piece.shard.identity()
            if piece.rows != piece.shard.rows:
                about = {**about, "rows": [piece.begin, piece.end]}
            seen.append(about)
        return {"shards": seen}

    def locate(self, row: int) -> str:
        for piece in self.pieces:
            if row < piece.rows:
                return f"{piece.shard.name}: row {piece.begin + row}"
            row -= piece.rows
        raise IndexError(f"{self.name}: row {row} past the last one")


def _check_rows(rows: int) -> None:
    if rows < 1:
        raise ValueError(f"rows: expected a positive int, got {rows}")
