"""The outputs of named layers during a forward pass, pooled to one row per sample."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Pool = str | Callable[[Any], Tensor]
_POOLS = ("mean", "flatten")


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``: hooks
    on layers of a compiled module would not run, and a probe needs no synchronised forward."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        else:
            inner = getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def found(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The named modules; ``""`` is the model itself.

    Raises:
        TypeError: a name is not a string, or ``names`` is one string.
        ValueError: no names, one given twice, or one that the model does not have; near matches are
            listed.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError("layers: expected a sequence of names of modules")
    if not names:
        raise ValueError("layers: expected at least one name of a module")
    modules = dict(model.named_modules())
    layers: dict[str, nn.Module] = {}
    for name in names:
        if name in layers:
            raise ValueError(f"layers: {name!r} is given twice")
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=5, cutoff=0.4)
            known = near or [key for key in modules if key][:8]
            hint = "; near matches: " if near else "; it has "
            raise ValueError(
                f"layers: the model has no module {name!r}{hint}{', '.join(map(repr, known))}"
            )
        layers[name] = modules[name]
    return layers


def pools_for(pool: Pool | Mapping[str, Pool], layers: Sequence[str]) -> dict[str, Pool]:
    """How each layer's output becomes rows, checked."""
    if isinstance(pool, Mapping):
        for name in pool:
            if name not in layers:
                raise ValueError(f"pool: {name!r} is not one of the layers {list(layers)}")
    chosen = {
        name: pool.get(name, "mean") if isinstance(pool, Mapping) else pool for name in layers
    }
    for how in chosen.values():
        if not callable(how) and how not in _POOLS:
            raise ValueError(f"pool: expected 'mean', 'flatten' or a callable, got {how!r}")
    return chosen


def pooled(name: str, output: Any, pool: Pool, rows: int) -> Tensor:
    """The output of layer ``name`` as [rows, D].

    ``"mean"`` averages [N, C, ...spatial] over space and [N, tokens, D] over tokens; ``"flatten"``
    keeps everything; a callable gets the output as the layer gave it.
    """
    if callable(pool):
        output = pool(output)
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        if isinstance(output, (tuple, list)):
            kind += f" of {len(output)}"
        source = "its pool" if callable(pool) else "it"
        raise TypeError(
            f"layers: {name!r}: expected a tensor, {source} gives a {kind}; take the tensor out of "
            f"it with pool={{{name!r}: lambda output: output[0]}}"
        )
    if output.ndim < 2 or len(output) != rows or not output.is_floating_point():
        raise ValueError(
            f"layers: {name!r}: expected a floating-point output with one row for each of the "
            f"{rows} inputs, got {str(output.dtype)[6:]} {list(output.shape)}"
        )
    if output.ndim > 2:
        if pool == "mean":
            output = output.mean(1) if output.ndim == 3 else output.flatten(2).mean(2)
        else:
            output = output.flatten(1)
    if output.shape[1] == 0:
        raise ValueError(f"layers: {name!r}: its output has no columns, {list(output.shape)}")
    return output.detach()


class Taps:
    """Catches the outputs of layers while its block runs."""

    def __init__(self, layers: Mapping[str, nn.Module], pools: Mapping[str, Pool]) -> None:
        self._layers, self._pools = layers, pools
        self._caught: dict[str, list[Any]] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on the layers, taken off again whatever happens."""
        with ExitStack() as stack:
            for name, module in self._layers.items():

                def catch(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
                    self._caught.setdefault(name, []).append(output)

                stack.callback(module.register_forward_hook(catch).remove)
            yield

    def rows(self, forward: Callable[[Any], Any], inputs: Any, count: int) -> dict[str, Tensor]:
        """One forward pass; the pooled rows [count, D] of every layer.

        Raises:
            ValueError: a layer was not called, or more than once.
        """
        self._caught = {}
        forward(inputs)
        caught, self._caught = self._caught, {}
        for name in self._layers:
            calls = len(caught.get(name, ()))
            if calls != 1:
                often = "not called" if calls == 0 else f"called {calls} times"
                raise ValueError(
                    f"layers: {name!r} was {often} in one forward pass of the model; expected once"
                )
        return {
            name: pooled(name, caught[name][0], self._pools[name], count) for name in self._layers
        }


@contextmanager
def untouched(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """A block that leaves the model's mode, random states, gradients and autocast as they were.

    Inside, the model is in evaluation mode, nothing records gradients, autocast is off, and random
    numbers start from ``seed``, so that two readings of a randomised loader see the same rows.
    """
    import random

    import numpy as np

    modes = {module: module.training for module in model.modules()}
    python, numpy = random.getstate(), np.random.get_state()
    cuda = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(cuda),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        random.setstate(python)
        np.random.set_state(numpy)
