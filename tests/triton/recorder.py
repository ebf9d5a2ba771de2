"""What launchers would launch on a GPU that is not in this machine.

:func:`record` calls a launcher on tensors of ``device="meta"``, which have shapes, strides and
offsets but no memory, with every launch written down instead of made. Types, attributes and
constants of a launch come from Triton's own binder: they are what a device would compile for.

    from tests.triton import recorder

    z = torch.empty(4096, 512, device="meta")
    recorder.record(recorder.DEVICES["sm90"], lambda: passes.unit_moments_forward(z))

A launcher that reads a result on the host fails here, since there is none.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

from triton.backends.compiler import BaseBackend, GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime import jit

from sslkernels.backends.triton.core import launch, tuning

# Shared memory that one program may use: CUDA programming guide, compute capabilities (163, 227 and
# 227 KB); CDNA3 instruction set architecture (64 KB of LDS).
DEVICES = {
    "sm80": launch.Device("cuda", 80, 32, 108, 163 * 1024),
    "sm90": launch.Device("cuda", 90, 32, 132, 227 * 1024),
    "sm100": launch.Device("cuda", 100, 32, 148, 227 * 1024),
    "gfx942": launch.Device("hip", "gfx942", 64, 304, 64 * 1024),
}


class Launch(NamedTuple):
    kernel: jit.JITFunction[Any]
    grid: tuple[int, ...]
    signature: Mapping[str, Any]  # argument -> "*bf16", "i32", "constexpr", or a tuple of those
    constexprs: Mapping[tuple[int, ...], Any]  # by the path to the argument
    attrs: Mapping[tuple[int, ...], Any]  # above all which pointers are multiples of 16
    num_warps: int
    num_stages: int

    @property
    def constants(self) -> dict[str, Any]:
        """The constants by name, without those within a tuple."""
        names = self.kernel.arg_names
        return {names[at[0]]: value for at, value in self.constexprs.items() if len(at) == 1}

    @property
    def source(self) -> ASTSource:
        given = dict(self.signature), dict(self.constexprs), dict(self.attrs)
        return ASTSource(self.kernel, *given)

    @property
    def code(self) -> tuple[Any, ...]:
        """What decides the machine code: launches of the same code differ in their grids alone."""
        held = (sorted(self.signature.items()), sorted(self.constexprs.items()))
        held += (sorted((at, str(value)) for at, value in self.attrs.items()),)
        return self.kernel.__name__, repr(held), self.num_warps, self.num_stages


def target_of(device: launch.Device) -> GPUTarget:
    return GPUTarget(device.backend, device.arch, device.warp_size)


def record(device: launch.Device, call: Callable[[], object]) -> list[Launch]:
    """The launches of ``call`` on ``device``, in order. Where a launcher may time several tiles and
    keep the fastest (``tuning.pick``), it launches with each of them."""
    launches = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        backend, binder = _binder(kernel, target_of(device))
        bound, specialization, _ = binder(*args, **kwargs)
        options, *facts = kernel._pack_args(backend, kwargs, bound, specialization, None)
        grid = tuple(grid(bound) if callable(grid) else grid)
        launches.append(Launch(kernel, grid, *facts, options.num_warps, options.num_stages))

    def pick(candidates: tuple[Any, ...], key: object, run: Callable[[Any], object]) -> Any:
        for other in candidates[1:]:
            run(other)
        return candidates[0]

    with contextlib.ExitStack() as patches:
        for owner, name, replacement in (
            (jit.JITFunction, "run", run),
            (launch, "device_of", lambda tensor: device),
            (launch, "on_device", lambda tensor: contextlib.nullcontext()),
            (tuning, "pick", pick),
        ):
            patches.enter_context(mock.patch.object(owner, name, replacement))
        call()
    return launches


@functools.cache
def _binder(kernel: Any, target: GPUTarget) -> tuple[BaseBackend, Callable[..., Any]]:
    backend = make_backend(target)
    return backend, jit.create_function_from_signature(kernel.signature, kernel.params, backend)


def distinct(launches: list[Launch]) -> Iterator[Launch]:
    """One launch of each machine code."""
    return iter({launch.code: launch for launch in launches}.values())
