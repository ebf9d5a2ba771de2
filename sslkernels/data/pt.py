"""``.pt`` files, memory-mapped: a tensor or a dict of tensors, nothing else is unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import torch

from sslkernels.data.arrays import ArrayShard, layers
from sslkernels.data.errors import DataError
from sslkernels.data.files import fingerprint, only


class PtShard(ArrayShard):
    def __init__(self, z: torch.Tensor, name: str, path: str) -> None:
        super().__init__(z, name)
        self._path = path

    def identity(self) -> dict[str, Any]:
        return {**fingerprint(self._path), "name": self.name, **super().identity()}


def shards(path: str, key: str | None) -> dict[str, PtShard]:
    """The embeddings [N, D] or [L, N, D] under a key, or the only float matrix of the file."""
    tensors = _load(path)
    if key is None and list(tensors) != [""]:
        floats = [k for k, t in tensors.items() if t.is_floating_point() and t.ndim == 2]
        key = only(floats, path, "2-D float tensor")
    name = path if key is None else f"{path}:{key}"
    found = layers(_get(tensors, path, key).detach(), name)
    return {k: PtShard(layer, n, path) for k, (n, layer) in found.items()}


def labels(path: str, key: str | None) -> torch.Tensor:
    """The integers under a key, or the only integer tensor of the file."""
    tensors = _load(path)
    if key is None and list(tensors) != [""]:
        found = [
            k
            for k, t in tensors.items()
            if not (t.is_floating_point() or t.is_complex() or t.dtype == torch.bool)
        ]
        key = only(found, path, "integer tensor")
    return _get(tensors, path, key)


def _load(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a file by name; one alone is named ``""``."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds more than tensors; save the tensor, or a dict of tensors, with "
            "torch.save"
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if isinstance(content, torch.Tensor):
        return {"": content}
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise DataError(f"{path}: takes a tensor or a dict of tensors, got {kind}")
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _get(tensors: dict[str, torch.Tensor], path: str, key: str | None) -> torch.Tensor:
    if (key or "") not in tensors:
        holds = ", ".join(list(tensors)[:5]) if list(tensors) != [""] else "one tensor, no dict"
        raise DataError(f"{path}: no tensor {key!r}; the file holds {holds or 'no tensors'}")
    return tensors[key or ""]
