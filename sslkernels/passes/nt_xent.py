"""NT-Xent as one operator forward and one backward.

With u the rows of both views divided by max(norm, 1e-12), the first view's N above the second's,
s_ij = u_i . u_j / temperature, and p(i) the row of i's other view:

    lse_i      = log sum_{k != i} exp(s_ik)
    alignment  = mean_i -s_ip(i)
    uniformity = mean_i lse_i
    loss       = alignment + uniformity = mean_i (lse_i - s_ip(i))

The 2N x 2N logits are formed tile by tile and never kept: memory grows with N, not with its square.
A row's loss is taken as log(1 + sum_{k != i, p(i)} exp(s_ik - s_ip(i))), which is never negative
and keeps its digits when it is small; and 1 - P_ip(i) = 1 - exp(-row loss) in its gradient.

What every backend implements, on checked tensors of one device, x and y being [N, D], any strides.
``own`` = (first, n) are the samples whose rows, 2n with both views, are this process's own: of
several processes each takes a part, and None is all N.

``nt_xent_forward(x, y, temperature, own=None) -> (terms, rows)``

* ``terms`` [3]: means over own rows, of row loss, -s_ip(i) and lse_i: with all rows loss, alignment
  and uniformity; float64 for float64 input, float32 for any other.
* ``rows`` [2, 2n] float64: lse of own rows, and lse less the positive logit.

``nt_xent_backward(grad, x, y, rows, temperature, need_x, need_y, need_radial=False, own=None,
unrounded=False) -> (grad_x | None, grad_y | None, radial | None)``

* ``grad`` [3]: gradient of the terms of all rows, any stride; ``rows`` [2, 2N]: of all rows. With
  P_ij = exp(s_ij - lse_i) off the diagonal and 0 on it, and Q the matrix of the pairs (i, p(i)),

      dL/du = ((g_0 + g_2) (P + P^T) - 2 (g_0 + g_1) Q) u / (2N temperature)
      dL/dz = (dL/du - u (u . dL/du)) / norm,  or dL/du / 1e-12 for a row shorter than that

  Both lse are at hand, so that an own row's gradient is whole: none is sent to another process.
* ``grad_x``, ``grad_y`` [n, D]: of own rows, contiguous, in the input's dtype, or ``unrounded`` in
  that of ``terms``; None for a view whose ``need`` is False.
* ``radial``, 0-d float64: the sum of u . dL/du over own rows; None unless ``need_radial``.

The temperature reaches the operators as a 0-d tensor: it may be learned, and a compiled graph then
takes a new value without being compiled again. Backends get it as a float. Logits being products
of rows of u over the temperature, its gradient is -radial of all rows / (2 temperature).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sslkernels.numerics.views import result_dtype
from sslkernels.passes._declare import along, declare, differentiate, once_differentiable, save
from sslkernels.passes.selection import named, select

MIN_TEMPERATURE = 1e-6


def _forward(x: Tensor, y: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    value = temperature.item()
    if not MIN_TEMPERATURE <= value < math.inf:
        raise ValueError(
            f"temperature: expected a finite number of at least {MIN_TEMPERATURE:g}, got {value}"
        )
    return select("nt_xent", x).nt_xent_forward(x, y, value)


def _forward_fake(x: Tensor, y: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.new_empty((2, 2 * x.shape[0]), dtype=torch.float64)
    return x.new_empty(3, dtype=result_dtype(x.dtype)), rows


def _backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
    temperature: Tensor,
    need_x: bool,
    need_y: bool,
    need_temperature: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """An unneeded gradient is an empty tensor: an operator cannot return None."""
    value = temperature.item()
    grad_x, grad_y, radial = named(backend).nt_xent_backward(
        grad, x, y, rows, value, need_x, need_y, need_temperature
    )
    on_temperature = None if radial is None else by_temperature(radial, value).to(temperature)
    results = (grad_x, grad_y, on_temperature)
    first, second, third = (x.new_empty(0) if g is None else g for g in results)
    return first, second, third


def by_temperature(radial: Tensor, temperature: float) -> Tensor:
    """The temperature's gradient from the sum of u . dL/du over all rows."""
    return -radial / (2 * temperature)


def _backward_fake(
    grad: Tensor, x: Tensor, y: Tensor, rows: Tensor, temperature: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    need_x, need_y, need_temperature, _backend = options
    return (
        x.new_empty(x.shape if need_x else 0),
        x.new_empty(x.shape if need_y else 0),
        temperature.new_empty(()) if need_temperature else x.new_empty(0),
    )


nt_xent = declare(
    "nt_xent",
    "(Tensor x, Tensor y, Tensor temperature) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)
nt_xent_backward = declare(
    "nt_xent_backward",
    "(Tensor grad, Tensor x, Tensor y, Tensor rows, Tensor temperature, "
    "bool need_x, bool need_y, bool need_temperature, str backend) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, temperature = inputs
    save(ctx, x, y, output[1], temperature)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    # The backward pass may run on another thread, where a use_backend block is not seen.
    ctx.backend = select("nt_xent", x).__name__


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    needs = ctx.needs_input_grad
    grads = nt_xent_backward(grad, *ctx.saved_tensors, *needs, ctx.backend)
    return tuple(g if needed else None for g, needed in zip(grads, needs, strict=True))


def _along(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
    x, y, rows, temperature = ctx.saved_tensors
    dtype = result_dtype(x.dtype)
    inputs = (x.to(dtype), y.to(dtype), rows, temperature)
    needs = [t is not None for t in tangents]

    def gradients(grad: Tensor) -> tuple[Tensor, ...]:
        return nt_xent_backward(grad.to(dtype), *inputs, *needs, ctx.backend)

    return along(gradients, 3, tangents).to(dtype), None


differentiate(nt_xent, _setup_context, _differentiate, _along)
once_differentiable(nt_xent_backward, "NT-Xent loss")
