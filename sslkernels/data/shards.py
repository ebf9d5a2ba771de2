"""Several files read as one: headers compared first, bad shards named or left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from sslkernels.data.base import LeftOut, Shard, ShardSource
from sslkernels.data.errors import DataError
from sslkernels.data.files import Member
from sslkernels.data.formats import embeddings_in


def open_shards(
    members: Sequence[Member], key: str | None, name: str, *, skip_bad: bool
) -> ShardSource:
    """The embeddings [N, D] of all files, in order.

    Raises:
        DataError: a file cannot be used, or its D or dtype is not that of most rows. With
            ``skip_bad`` it is left out and listed; the error is raised if nothing remains.
    """
    opened: list[Shard | DataError] = []
    for member in members:
        try:
            opened.append(_one(member, key))
        except DataError as error:
            if not skip_bad:
                raise
            opened.append(error)
    good = [shard for shard in opened if isinstance(shard, Shard)]
    if not good:
        raise DataError(f"{name}: no shard can be used; the first: {opened[0]}")
    common = _common(good)
    shards: list[Shard] = []
    skipped: list[str] = []
    left_out: list[LeftOut] = []
    before = 0
    for member, shard in zip(members, opened, strict=True):
        wrong = shard if isinstance(shard, DataError) else _differs(shard, common)
        if isinstance(shard, Shard) and wrong is None:
            shards.append(shard)
            before += shard.rows
        elif wrong is not None:
            if not skip_bad:
                raise wrong
            skipped.append(str(wrong))
            left_out.append(LeftOut(member.path, member.number, before, wrong.rows))
    return ShardSource.of(name, shards, skipped=skipped, left_out=left_out)


def _one(member: Member, key: str | None) -> Shard:
    found = embeddings_in(member.path, key)
    if list(found) != [""]:
        raise DataError(
            f"{member.path}: shape [L, N, D] in one of several shards; give each layer its own"
        )
    shard = found[""]
    shard.path, shard.number = member
    return shard


def _common(shards: Sequence[Shard]) -> Shard:
    """The first shard of the dim and dtype that most rows have."""
    rows: Counter[tuple[int, torch.dtype]] = Counter()
    for shard in shards:
        rows[shard.dim, shard.dtype] += shard.rows
    kind = max(rows, key=rows.__getitem__)
    return next(shard for shard in shards if (shard.dim, shard.dtype) == kind)


def _differs(shard: Shard, common: Shard) -> DataError | None:
    if shard.dim != common.dim:
        what, other = f"{shard.dim} columns", f"{common.dim}"
    elif shard.dtype != common.dtype:
        what, other = f"dtype {str(shard.dtype)[6:]}", str(common.dtype)[6:]
    else:
        return None
    return DataError(f"{shard.name}: {what}, but {common.name} has {other}", rows=shard.rows)
