"""What every launcher needs: the device it runs on, and how wide its loads may be.

Conventions of the kernels in this package:

* A parameter ends in ``_ptr``, or is annotated as a constexpr or a tuple of pointers, or is a
  number that the code does not depend on (:func:`kernel`). What the compiler must know for 128-bit
  loads is said by the constexpr ``VEC`` instead: sizes and strides are multiples of it
  (``D = D // VEC * VEC`` in the kernel states that to the compiler for free). Numbers within a
  tuple are floats.
* Row offsets are 64-bit; a column offset always fits 32. Within a tile of a product, offsets are
  32-bit, too: it costs half the registers, and ``cannot`` refuses what is too long for it.
* What may grow without bound lies on a grid's first axis: the others end at GRID programs.
* A launcher calls its kernels inside :func:`on_device`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton

from sslkernels.backends.triton import INTERPRETED


def kernel(fn: Callable[..., Any]) -> Any:
    """``triton.jit`` without specialised numbers: Triton would compile anew for a size that happens
    to be 1 or a multiple of 16, and a ragged last batch would recompile."""
    parameters = inspect.signature(fn).parameters.values()
    numbers = [p.name for p in parameters if p.annotation is p.empty and p.name[-4:] != "_ptr"]
    return triton.jit(do_not_specialize=numbers)(fn)


class Device(NamedTuple):
    """What the tile chooser knows of a GPU: sizes, not names."""

    backend: str  # "cuda" or "hip"
    arch: int | str  # 80, 90, 100, "gfx942"
    warp_size: int
    processors: int  # multiprocessors (compute units)
    shared_memory: int  # bytes that one program may use


GRID = 65535  # the most programs along the second or third axis of a grid

# The interpreter has no device. This one has few processors, so that small tests still split work.
INTERPRETER = Device("cuda", 90, 32, 8, 232448)


def _let_interpreter_count() -> None:
    """``range(n)`` over a kernel's own integers: triton 3.6's interpreter keeps them as arrays of
    one element, which NumPy 2.4 no longer turns into an index."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


if INTERPRETED:
    _let_interpreter_count()


@functools.cache
def _device(index: int) -> Device:
    from triton.runtime import driver

    target = driver.active.get_current_target()
    properties = driver.active.utils.get_device_properties(index)
    return Device(
        target.backend,
        target.arch,
        target.warp_size,
        properties["multiprocessor_count"],
        properties["max_shared_mem"],
    )


def device_of(tensor: torch.Tensor) -> Device:
    """The device a tensor lives on; call it inside :func:`on_device`."""
    return INTERPRETER if INTERPRETED else _device(tensor.device.index)


def on_device(tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device and stream: make them the tensor's."""
    return contextlib.nullcontext() if INTERPRETED else torch.cuda.device(tensor.device)


def unit_columns(z: torch.Tensor) -> torch.Tensor:
    """``z`` with a column stride of 1, so that loads along a row coalesce.

    Rows may lie up to 2^23 elements apart (offsets within a tile are 32-bit). Anything else, above
    all a transposed or column-sliced view, is copied: one read and one write of the input, less
    than any uncoalesced pass over it would cost.
    """
    unit = z.stride(-1) == 1 or z.shape[-1] == 1
    return z if unit and z.stride(-2) <= 1 << 23 else z.contiguous()


def aligned(z: torch.Tensor) -> torch.Tensor:
    """A copy whose rows are padded with zeros to whole 128-bit words."""
    rows, columns = z.shape
    copy = z.new_zeros((rows, -(-columns // 16) * 16))
    copy[:, :columns] = z
    return copy


def vector_width(*tensors: torch.Tensor) -> int:
    """``VEC``: the elements of each tensor that one 128-bit load takes; 1 if any is unaligned."""
    width = min(16 // t.element_size() for t in tensors)
    for t in tensors:
        # A dimension of size 1 has no stride: no address is computed from it.
        strides = [s for n, s in zip(t.shape[:-1], t.stride()[:-1], strict=True) if n > 1]
        if t.data_ptr() % 16 or any(s % width for s in (t.shape[-1], *strides)):
            return 1
    return width
