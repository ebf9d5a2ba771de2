"""Opening embeddings, whatever holds them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from sslkernels.data.arrays import array_shards, is_array
from sslkernels.data.base import Chunk, Shard, ShardSource, Source
from sslkernels.data.errors import DataError
from sslkernels.data.files import embedding_files, numbered, split_key
from sslkernels.data.formats import embeddings_in
from sslkernels.data.shards import open_shards
from sslkernels.data.stream import open_stream

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
    """Named sources: ``"0"`` to ``"L-1"`` of [L, N, D], the names of a dict, else ``""`` alone.

    In a dict, an array [L, N, D] named "a" makes "a.0" to "a.L-1"; one named "", "0" to "L-1".
    """
    if isinstance(obj, Source):
        return {"": obj}
    if isinstance(obj, Mapping):
        opened: dict[str, Source] = {}
        for key, value in obj.items():
            outer = str(key)
            inner = open_sources(value, name=outer or name, skip_bad=skip_bad, spool=spool)
            more = {f"{outer}.{k}" if outer and k else outer or k: s for k, s in inner.items()}
            if twice := opened.keys() & more.keys():
                raise DataError(f"{name}: the name {min(twice)!r} is given twice")
            opened.update(more)
        if not opened:
            raise DataError(f"{name}: an empty dict holds no embeddings")
        return opened
    if _is_path(obj):
        return _paths(os.fspath(obj), skip_bad)
    if is_array(obj):
        return _each(array_shards(obj, name))
    if isinstance(obj, (list, tuple)) and obj and all(_is_path(item) for item in obj):
        paths = [os.fspath(item) for item in obj]
        return {"": open_shards(numbered(paths), None, name, skip_bad=skip_bad)}
    if isinstance(obj, Iterable):
        return {"": open_stream(obj, name, spool)}
    raise DataError(f"{name}: cannot read embeddings from {type(obj).__name__}")


def _paths(given: str, skip_bad: bool) -> dict[str, Source]:
    path, key = split_key(given)
    members = embedding_files(path)
    if members is None:
        return _each(embeddings_in(path, key))
    return {"": open_shards(members, key, given, skip_bad=skip_bad)}


def _is_path(obj: Any) -> bool:
    return isinstance(obj, (str, os.PathLike))


def _each(shards: Mapping[str, Shard]) -> dict[str, Source]:
    return {key: ShardSource.of(shard.name, [shard]) for key, shard in shards.items()}
