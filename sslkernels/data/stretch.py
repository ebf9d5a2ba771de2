"""Shards whose rows lie in one stretch of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sslkernels import _checks
from sslkernels.data.base import Shard
from sslkernels.data.npy import NpyFile


class StretchShard(Shard):
    """Embeddings [N, D] in one stretch of a file.

    Args:
        file: where they are.
        name: what messages call them.
        dtype: of the embeddings, if NumPy has no name for it: bfloat16, read as int16.
    """

    def __init__(self, file: NpyFile, name: str, dtype: torch.dtype | None = None) -> None:
        self._file = file
        self.name = name
        self.rows, self.dim = file.shape
        self.dtype = dtype or getattr(torch, file.dtype.newbyteorder("=").name)

    def read(self, cuts: Sequence[int]) -> Iterator[torch.Tensor]:
        for rows in self._file.read(cuts):
            z = _checks.as_tensor(rows, self.name).view(self.dtype)
            del rows
            yield z
            del z  # the consumer's reference is the last one

    def identity(self) -> dict[str, Any]:
        about = {"shape": [self.rows, self.dim], "dtype": str(self.dtype)[6:]}
        return {**self._file.file.identity(), "offset": self._file.offset, **about}
