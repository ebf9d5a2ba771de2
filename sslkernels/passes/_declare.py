"""How a pass is declared: as an operator of torch, with derivatives or without.

A loss is two operators, forward and the backward pass: :func:`declare` names each to torch, with a
kernel for every device and shapes for tracing, and :func:`differentiate` gives it derivatives, at
two dispatch keys:

* ``Autograd``: ordinary autograd, and dual numbers of ``torch.autograd.forward_ad``;
* ``FuncTorchDynamicLayerFrontMode``, where calls arrive inside ``torch.func`` (grad, vjp, jvp,
  jacrev, vmap, ...): ``torch.autograd.Function.apply`` takes them apart level by level.

torch.library.register_autograd serves neither dual numbers nor torch.func, and takes 50 us more per
step, of 170 in all for VICReg on a tiny batch. A statistic is one operator without derivatives:
:func:`statistic`.

Where torch's dispatcher would find nothing but a kernel, calls go past it: asking that takes 1 us,
dispatching 2.5 us for each kernel in Python, and more for lists of tensors. A call of class moments
of 100 rows takes 35 us; a step of a loss on a tiny batch is faster by 20 of 150.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sslkernels.passes.selection import Misaligned, select

Results = Tensor | tuple[Tensor, ...] | None

# What ordinary calls are dispatched on: the keys of their thread, to which modes, transforms and
# traces add, and those of strided tensors. Should a torch have others, calls are dispatched.
_keys_of_thread = torch._C._dispatch_tls_local_include_set
_keys_of = torch._C._dispatch_keys


def _keys(*names: str) -> int:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
    for name in names:
        keys = keys | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return keys.raw_repr()


_QUIET = _keys("BackendSelect")
_PLAIN = {_keys(d, f"Autograd{d}", f"Autocast{d}") for d in ("CPU", "CUDA")}
_TENSORS = frozenset((Tensor, torch.nn.Parameter))
_OTHERS = frozenset((bool, int, float, str, type(None), tuple, list))


def _quiet() -> bool:
    """Whether no compiler, mode, transform, tracer or dual numbers are around."""
    return not (
        torch.compiler.is_compiling()  # Dynamo reads no further
        or _keys_of_thread().raw_repr() != _QUIET
        or torch._C._len_torch_function_stack()
        or forward_ad._current_level >= 0
    )


class Operator:
    """``sslkernels::name``, to be called as a function, of a loss."""

    def __init__(
        self, name: str, schema: str, run: Callable[..., Results], fake: Callable[..., Results]
    ) -> None:
        qualified = f"sslkernels::{name}"
        torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(qualified, "CompositeExplicitAutograd")(run)
        torch.library.register_fake(qualified)(fake)
        self.op = getattr(torch.ops.sslkernels, name).default
        self.run = run
        self.recorded: Callable[..., Results] = run  # for backward, where gradients are enabled

    def __call__(self, *args: Any) -> Any:
        if not _quiet():
            return self.op(*args)
        for arg in args:
            kind = type(arg)
            if kind not in _OTHERS and (
                kind not in _TENSORS or _keys_of(arg).raw_repr() not in _PLAIN
            ):
                return self.op(*args)
        return self.recorded(*args) if torch.is_grad_enabled() else self.run(*args)

    def name(self) -> str:
        return cast(str, self.op.name())

    def below_autograd(self, *args: Any) -> Results:
        with torch._C._AutoDispatchBelowAutograd():
            return self.op(*args)


class Statistic(Operator):
    """The same of a statistic, which takes plain tensors (``sslkernels/_gate.py``)."""

    def __call__(self, *args: Any) -> Any:
        if not _quiet():
            return self.op(*args)
        for arg in args:
            kind = type(arg)
            if kind not in _OTHERS and (kind is not Tensor or arg.requires_grad):
                return self.op(*args)
        return self.run(*args)


def statistic(
    schema: str, run: Callable[..., Results]
) -> Callable[[Callable[..., Results]], Statistic]:
    """Declares a pass without derivatives by a function of its name, which makes the results'
    shapes.

    run: takes the backend that is selected for the first argument, and all arguments.
    """

    def declared(fake: Callable[..., Results]) -> Statistic:
        name = fake.__name__

        def selected(*args: Any) -> Results:
            return run(select(name, args[0]), *args)

        def without_derivatives(*args: Any) -> Results:
            if torch.is_grad_enabled() and any(
                arg.requires_grad for arg in args if isinstance(arg, Tensor)
            ):
                raise NotImplementedError(
                    f"sslkernels::{name} is not differentiable: expected tensors that do not "
                    "require gradients"
                )
            return operator.below_autograd(*args)

        operator = Statistic(name, schema, selected, fake)
        torch.library.impl(operator.name(), "Autograd")(without_derivatives)
        return operator

    return declared


def declare(
    name: str, schema: str, run: Callable[..., Results], fake: Callable[..., Results]
) -> Operator:
    """A pass of a loss, which takes tensors as callers have them."""

    def run_aligned(*args: Any) -> Results:
        try:
            return run(*args)
        except Misaligned:
            return run(*map(_aligned, args))

    return Operator(name, schema, run_aligned, fake)


def _aligned(value: Any) -> Any:
    """A tensor on memory that starts between two elements (of a buffer of bytes) as a copy."""
    if isinstance(value, Tensor) and value.data_ptr() % value.element_size():
        return value.clone()
    return value


def differentiate(
    operator: Operator,
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., Any],
    jvp: Callable[..., Any],
) -> None:
    """Derivatives of ``operator``, as ``torch.autograd.Function`` has them; vmap runs item by
    item."""
    op = operator.op

    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        def item(i: int) -> list[Any]:
            pairs = zip(args, in_dims, strict=True)
            return [a if dim is None else a.select(dim, i) for a, dim in pairs]

        results = [op(*item(i)) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(each) for each in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    def function(forward: Callable[..., Results]) -> Any:
        rules: dict[str, Any] = {
            "forward": forward,
            "setup_context": setup_context,
            "backward": backward,
            "jvp": jvp,
            "vmap": vmap,
        }
        rules = {name: staticmethod(rule) for name, rule in rules.items()}
        return type(op.name().split("::")[1], (torch.autograd.Function,), rules)

    def apply(function: Any) -> Callable[..., Results]:
        # Function.apply looks for torch.func's transforms and binds defaults, 15 us of it. Calls
        # that arrive here have passed them already.
        return cast(Callable[..., Results], super(torch.autograd.Function, function).apply)

    below = function(operator.below_autograd)
    apply_below = apply(below)

    def autograd(*args: Any) -> Results:
        # Tangents are carried under no_grad too.
        if torch.is_grad_enabled() or forward_ad._current_level >= 0:
            return apply_below(*args)
        return operator.below_autograd(*args)

    torch.library.impl(op.name(), "Autograd")(autograd)
    torch.library.impl(op.name(), "FuncTorchDynamicLayerFrontMode")(below.apply)
    operator.recorded = apply(function(operator.run))


def once_differentiable(operator: Operator, loss: str) -> None:
    """Refuse derivatives of a backward pass, by name, if that graph is ever walked."""

    def refuse(*_: Any) -> None:
        raise NotImplementedError(
            f"the {loss} is differentiable once: no second derivative (double backward) is "
            f"implemented for {operator.name()}"
        )

    differentiate(operator, lambda ctx, inputs, output: None, refuse, refuse)


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Keep tensors for the backward pass, and for forward mode where that is going on: torch would
    hold on to the latter for as long as the graph lives."""
    ctx.save_for_backward(*tensors)
    if forward_ad._current_level >= 0:
        ctx.save_for_forward(*tensors)


def along(
    gradients: Callable[[Tensor], Sequence[Tensor]],
    terms: int,
    tangents: Sequence[Tensor | None],
) -> Tensor:
    """The derivatives of a loss's terms along ``tangents``, one backward pass for each term.

    gradients: takes a gradient of the terms, returns those of the inputs.
    """
    given = [t for t in tangents if t is not None]
    derivatives = []
    for one in torch.eye(terms, dtype=torch.float64, device=given[0].device):
        pairs = zip(gradients(one), tangents, strict=True)
        products = [(g.double() * t).sum() for g, t in pairs if t is not None]
        derivatives.append(torch.stack(products).sum())
    return torch.stack(derivatives)
