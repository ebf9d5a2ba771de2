"""How an operator is declared, and how torch's transforms differentiate it.

Every loss is two operators: forward, and the backward pass. :func:`declare` names one to torch,
with a kernel for every device and shapes for tracing; :func:`differentiate` gives it derivatives,
at two dispatch keys:

* ``Autograd``: ordinary autograd, and dual numbers of ``torch.autograd.forward_ad``;
* ``FuncTorchDynamicLayerFrontMode``, where calls arrive inside ``torch.func`` (grad, vjp, jvp,
  jacrev, vmap, ...): ``torch.autograd.Function.apply`` takes them apart level by level.

torch.library.register_autograd serves neither dual numbers nor torch.func, and takes 50 us more per
step, of 170 in all for VICReg on a tiny batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sslkernels.passes.selection import Misaligned

Results = Tensor | tuple[Tensor, ...]


def declare(
    name: str, schema: str, run: Callable[..., Results], fake: Callable[..., Results]
) -> Any:
    """``sslkernels::name`` on every device; returns its overload."""
    qualified = f"sslkernels::{name}"

    def run_aligned(*args: Any) -> Results:
        try:
            return run(*args)
        except Misaligned:
            return run(*map(_aligned, args))

    torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(qualified, "CompositeExplicitAutograd")(run_aligned)
    torch.library.register_fake(qualified)(fake)
    return getattr(torch.ops.sslkernels, name).default


def _aligned(value: Any) -> Any:
    """A tensor on memory that starts between two elements (of a buffer of bytes) as a copy."""
    if isinstance(value, Tensor) and value.data_ptr() % value.element_size():
        return value.clone()
    return value


def differentiate(
    op: Any,
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., Any],
    jvp: Callable[..., Any],
) -> None:
    """Derivatives of ``op``, as ``torch.autograd.Function`` has them; vmap runs item by item."""

    def forward(*args: Any) -> Results:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        def item(i: int) -> list[Any]:
            pairs = zip(args, in_dims, strict=True)
            return [a if dim is None else a.select(dim, i) for a, dim in pairs]

        results = [op(*item(i)) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(each) for each in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    rules: dict[str, Any] = {
        "forward": forward,
        "setup_context": setup_context,
        "backward": backward,
        "jvp": jvp,
        "vmap": vmap,
    }
    rules = {name: staticmethod(rule) for name, rule in rules.items()}
    function: Any = type(op.name().split("::")[1], (torch.autograd.Function,), rules)
    # Function.apply looks for torch.func's transforms and binds defaults, 15 us of it. Calls that
    # arrive here have passed them already.
    apply = super(torch.autograd.Function, function).apply

    def autograd(*args: Any) -> Results:
        # Tangents are carried under no_grad too.
        if torch.is_grad_enabled() or forward_ad._current_level >= 0:
            return apply(*args)
        return forward(*args)

    torch.library.impl(op.name(), "Autograd")(autograd)
    torch.library.impl(op.name(), "FuncTorchDynamicLayerFrontMode")(function.apply)


def once_differentiable(op: Any, loss: str) -> None:
    """Refuse derivatives of a backward pass, by name, if that graph is ever walked."""

    def refuse(*_: Any) -> None:
        raise NotImplementedError(
            f"the {loss} is differentiable once: no second derivative (double backward) is "
            f"implemented for {op.name()}"
        )

    differentiate(op, lambda ctx, inputs, output: None, refuse, refuse)


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
