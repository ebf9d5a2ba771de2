"""Opening embeddings, whatever holds them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sslkernels.data.arrays import is_array, shards_of
from sslkernels.data.base import Chunk, Shard, ShardSource, Source
from sslkernels.data.errors import DataError
from sslkernels.data.files import split_key
from sslkernels.data.npy import npy_shards

__all__ = ["Chunk", "Source", "open_source", "open_sources"]


def open_source(obj: Any, *, name: str = "z", skip_bad: bool = False, spool: Any = None) -> Source:
    """Embeddings [N, D] as a source that is read in chunks; what is wrong with it is said now.

    Args:
        obj: a tensor, array, path or iterable; a Source comes back as it is.
        name: what messages call data that have no file name.
        skip_bad: leave out shards that cannot be used, and list them in ``source.skipped``.
        spool: folder in which a one-shot iterator is kept.

    Raises:
        DataError: the data cannot be used; the message names the file and the row.
    """
    sources = open_sources(obj, name=name, skip_bad=skip_bad, spool=spool)
    if list(sources) != [""]:
        raise DataError(f"{name}: holds {len(sources)} sets of embeddings, takes one [N, D]")
    return sources[""]


def open_sources(
    obj: Any, *, name: str = "z", skip_bad: bool = False, spool: Any = None
) -> dict[str, Source]:
    """Named sources: ``"0"`` to ``"L-1"`` of [L, N, D], the names of a dict, else ``""`` alone."""
    if isinstance(obj, Source):
        return {"": obj}
    if isinstance(obj, Mapping):
        opened: dict[str, Source] = {}
        for key, value in obj.items():
            inner = open_sources(value, name=str(key), skip_bad=skip_bad, spool=spool)
            opened.update({f"{key}.{k}" if k else str(key): s for k, s in inner.items()})
        if not opened:
            raise DataError(f"{name}: an empty dict holds no embeddings")
        return opened
    if isinstance(obj, (str, os.PathLike)):
        path = os.fspath(obj)
        return _layers(npy_shards(split_key(path)[0]), path)
    if is_array(obj):
        return _layers(shards_of(obj, name), name)
    raise DataError(f"{name}: cannot read embeddings from {type(obj).__name__}")


def _layers(shards: Sequence[Shard], name: str) -> dict[str, Source]:
    if len(shards) == 1 and shards[0].name == name:
        return {"": ShardSource.of(name, shards)}
    return {str(i): ShardSource.of(shard.name, [shard]) for i, shard in enumerate(shards)}
