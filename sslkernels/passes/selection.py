"""Which backend serves a call, and why another cannot.

A backend is a package ``sslkernels.backends.NAME`` that says of itself

* ``PASSES``, a table: the name of a function that the contracts in this folder ask for -> the
  module, relative to the package, that holds it;
* ``unusable() -> str | None``: why it cannot run on this machine at all;
* ``describe() -> str``: how it will run;
* ``cannot(pass_name, tensor) -> str | None``: why it cannot serve this pass for this tensor;

and whose functions are attributes of the package by :func:`resolver`.

An explicit choice (:func:`use_backend`) never falls back. Without one, the first backend in the
device's order of preference that can serve the call does; when none can, the error lists every
reason.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch

NAMES = ("cpu", "triton", "torch")

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)


class Misaligned(RuntimeError):
    """A backend cannot read a tensor where it lies: its memory starts between two elements."""


class BackendStatus(NamedTuple):
    """Whether a backend is usable on this machine; ``reason`` says why not, or how it will run."""

    usable: bool
    reason: str


def resolver(package: str, passes: Mapping[str, str]) -> Callable[[str], Any]:
    """``__getattr__`` of a backend: its passes, imported when first asked for, so that a process
    that needs none pays for none."""

    def resolve(name: str) -> Any:
        if name not in passes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        function = getattr(importlib.import_module(f".{passes[name]}", package), name)
        setattr(sys.modules[package], name, function)  # found there from now on
        return function

    return resolve


@functools.cache
def _module(name: str) -> ModuleType:
    return importlib.import_module(f"sslkernels.backends.{name}")


def named(backend: str) -> ModuleType:
    """The backend whose ``__name__`` a forward pass has kept for the backward pass, which may run
    on another thread, where a use_backend block is not seen."""
    return _module(backend.rpartition(".")[2])


def backends() -> dict[str, BackendStatus]:
    """Every backend by name, whether it is usable on this machine, and why or how.

    Example:
        >>> import sslkernels as ssk
        >>> ssk.backends()["torch"].usable
        True
    """
    report = {}
    for name in NAMES:
        module = _module(name)
        reason = module.unusable()
        report[name] = BackendStatus(reason is None, reason or module.describe())
    return report


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every call inside the block with one backend: ``"cpu"``, ``"triton"`` or ``"torch"``.

    A call that this backend cannot serve raises a RuntimeError with the reason; nothing falls back.
    The choice follows the thread (or task) that made it; backward passes use the backend that ran
    the forward pass.

    Raises:
        ValueError: unknown name.
        RuntimeError: the backend is not usable on this machine.

    Example:
        >>> import torch, sslkernels as ssk
        >>> with ssk.use_backend("torch"):
        ...     float(ssk.invariance_loss(torch.ones(2, 3), torch.zeros(2, 3)))
        1.0
    """
    if name not in NAMES:
        raise ValueError(f"name: no backend {name!r}; one of {', '.join(NAMES)}")
    reason = _module(name).unusable()
    if reason is not None:
        raise RuntimeError(f"backend {name!r} is not usable here: {reason}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def select(pass_name: str, tensor: torch.Tensor) -> ModuleType:
    """The backend module that serves ``pass_name`` for ``tensor``."""
    chosen = _chosen.get()
    preferred = ("cpu", "torch") if tensor.is_cpu else ("triton", "torch")
    candidates = preferred if chosen is None else (chosen,)
    reasons = []
    for name in candidates:
        module = _module(name)
        reason = module.unusable() or _lacks(name, pass_name) or module.cannot(pass_name, tensor)
        if reason is None:
            return module
        reasons.append(f"{name}: {reason}")
    raise RuntimeError(
        f"no backend can serve {pass_name} for {tensor.dtype} on {tensor.device}: "
        + "; ".join(reasons)
    )


@functools.cache
def _lacks(backend: str, pass_name: str) -> str | None:
    passes = _module(backend).PASSES
    if pass_name in passes or f"{pass_name}_forward" in passes:
        return None
    return f"has no {pass_name} kernel"
