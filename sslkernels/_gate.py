"""The gate that every statistic passes: what a call finds around it, and the tensors it is given.

Torch lets a tensor be many things (negated lazily, sparse, wrapped by a transform) and a caller
change what operations do (autocast, inference mode). The passes read raw memory, in one arithmetic.
Both meet here, once: :func:`gated` makes the surroundings plain, and :func:`plain` the tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

_T = TypeVar("_T", bound=Callable[..., Any])


def gated(target: _T) -> _T:
    """A public function, or a class with its public methods, that computes as the library means to.

    Autocast is off inside. Under a transform of ``torch.func`` the call is a RuntimeError. What a
    class keeps is made outside of inference mode. Properties are left alone: they read float64
    state, which none of this touches.
    """
    if not isinstance(target, type):
        return cast(_T, _gated_function(target))
    for name, member in list(vars(target).items()):
        if name == "__init__":
            setattr(target, name, _gated_function(member, makes_state=True))
        elif isinstance(member, (classmethod, staticmethod)):
            made = _gated_function(member.__func__, makes_state=True)
            setattr(target, name, type(member)(made))
        elif callable(member) and not name.startswith("_"):
            setattr(target, name, _gated_function(member))
    return cast(_T, target)


def _gated_function(function: Callable[..., Any], makes_state: bool = False) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                f"{function.__qualname__}: has no derivatives or batching rules; expected a call "
                "outside of torch.func transforms (grad, vjp, jvp, vmap), got one inside"
            )
        if torch.compiler.is_compiling():  # what Dynamo can trace of the same
            with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                return function(*args, **kwargs)
        with torch._C._DisableAutocast():
            if makes_state and torch.is_inference_mode_enabled():
                with torch.inference_mode(False):
                    return function(*args, **kwargs)
            return function(*args, **kwargs)

    return call


def plain(t: torch.Tensor, name: str) -> torch.Tensor:
    """The values of ``t`` in an ordinary tensor: strided, aligned memory, no derivatives.

    On the memory of ``t`` unless its values are negated or conjugated lazily, or not aligned.

    Raises:
        TypeError: ``t`` holds its values in another way, or has none.
    """
    if torch.compiler.is_compiling():  # operators get real tensors, later
        return t.detach()
    if torch._C._functorch.is_functorch_wrapped_tensor(t):
        raise TypeError(f"{name}: expected a plain tensor, got a wrapper of a torch.func transform")
    kind = type(t)
    if kind is not torch.Tensor:
        if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
            raise TypeError(f"{name}: expected a plain tensor, got {kind.__name__}")
        with torch._C.DisableTorchFunctionSubclass():
            t = t.as_subclass(torch.Tensor)
    if t.is_nested or t.layout is not torch.strided:
        got = "a nested one" if t.is_nested else f"layout {str(t.layout)[6:]}"
        raise TypeError(f"{name}: expected a dense tensor, got {got}")
    if t.is_meta:
        raise TypeError(f"{name}: expected a tensor that holds values, got one on meta")
    t = t.detach()
    if t.is_neg() or t.is_conj():
        t = t.resolve_conj().resolve_neg()
    return t.clone() if t.data_ptr() % t.element_size() else t
