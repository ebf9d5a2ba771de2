"""The pickle in a ``.pt`` file, read with no means to call anything but what is below."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class MoreThanTensors(pickle.UnpicklingError):
    """The pickle names something that is not part of a tensor."""


class Stored(NamedTuple):
    """What a pickle says of a tensor; offset and strides count numbers, not bytes."""

    record: str
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def last(self) -> int:
        """The end of its last number in the record."""
        if 0 in self.size:
            return self.offset
        steps = zip(self.size, self.stride, strict=True)
        return self.offset + sum((n - 1) * step for n, step in steps) + 1


class _Storage(NamedTuple):
    dtype: torch.dtype | None  # None: bytes
    record: str


class _Other(NamedTuple):
    """A tensor whose numbers are not in one record."""

    kind: str

    def __str__(self) -> str:
        return f"one of kind {self.kind!r}"


def described(content: bytes) -> Mapping[str, Stored | _Other]:
    """The tensors of a pickle by name; one alone is named ``""``."""
    found = _Unpickler(io.BytesIO(content)).load()
    if isinstance(found, (Stored, _Other)):
        return {"": found}
    if not isinstance(found, dict):
        raise TypeError(f"expected a tensor or a dict of tensors, got {type(found).__name__}")
    return {str(k): each for k, each in found.items() if isinstance(each, (Stored, _Other))}


# Not the one in C, which takes memory for whatever number of memos the bytes claim.
class _Unpickler(pickle._Unpickler):
    """All that a pickle can call are these methods and a few plain types."""

    # An operation that takes memory for a length first; torch.save does not use it.
    dispatch: ClassVar = {
        k: v for k, v in pickle._Unpickler.dispatch.items() if k != pickle.BYTEARRAY8[0]
    }

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, record, _, _ = pid
        if kind != "storage" or not (dtype is None or isinstance(dtype, torch.dtype)):
            raise ValueError("not a storage")
        return _Storage(dtype, str(record))

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "Counter"): dict,
            ("builtins", "set"): set,
            ("builtins", "complex"): complex,
            ("builtins", "bytearray"): self._bytes,
            ("_codecs", "encode"): self._bytes,  # of bytes, in the protocol that torch.save takes
            ("torch", "Size"): tuple,
            ("torch", "Tensor"): None,
            ("torch.nn.parameter", "Parameter"): None,
            ("torch.storage", "UntypedStorage"): None,
            ("torch.serialization", "_get_layout"): str,
            ("torch", "device"): self._device,
            ("torch._tensor", "_rebuild_from_type_v2"): self._of_type,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_bytes,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self._parameter,
            ("torch._utils", "_rebuild_sparse_tensor"): self._sparse,
            ("torch._utils", "_rebuild_meta_tensor_no_storage"): self._meta,
            ("torch._utils", "_rebuild_qtensor"): self._quantized,
        }
        module = "builtins" if module == "__builtin__" else module
        if (module, name) in known:
            return known[module, name]
        if module == "torch":
            found = getattr(torch, name, None)
            if isinstance(found, (torch.dtype, torch.qscheme)):
                return found
            if name.endswith("Storage"):
                return _STORAGES.get(name)
        raise MoreThanTensors(f"{module}.{name}")

    @staticmethod
    def _tensor_from(
        storage: Any, dtype: Any, offset: Any, size: Any, stride: Any, bits: Any = None
    ) -> Stored | _Other:
        if bits:  # what the numbers are lazily: negated, conjugated
            return _Other(", ".join(map(str, bits)))
        numbers = (offset, *size, *stride)
        if (
            not isinstance(storage, _Storage)
            or not isinstance(dtype, torch.dtype)
            or len(size) != len(stride)
            or any(type(n) is not int or n < 0 for n in numbers)
        ):
            raise ValueError("not a tensor")
        return Stored(storage.record, dtype, offset, tuple(size), tuple(stride))

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *more: Any
    ) -> Stored | _Other:
        return self._tensor_from(storage, storage.dtype, offset, size, stride, *more[2:])

    def _tensor_of_bytes(
        self, storage: Any, offset: Any, size: Any, stride: Any, *more: Any
    ) -> Stored | _Other:
        return self._tensor_from(storage, more[2], offset, size, stride, *more[3:])

    def _parameter(self, tensor: Any, *_: Any) -> Any:
        return tensor

    def _of_type(self, rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
        return rebuild(*arguments)

    def _device(self, *_: Any) -> None:
        return None

    def _bytes(self, *_: Any) -> None:
        return None

    def _sparse(self, *_: Any) -> _Other:
        return _Other("sparse")

    def _meta(self, *_: Any) -> _Other:
        return _Other("meta")

    def _quantized(self, *_: Any) -> _Other:
        return _Other("quantized")
