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

What every backend implements, on checked tensors of one device, x and y being [N, D], any strides:

``nt_xent_forward(x, y, temperature) -> (terms, rows)``

* ``terms`` [3]: loss, alignment, uniformity; float64 for float64 input, float32 for any other.
* ``rows`` [2, 2N] float64: lse, and lse less the positive logit.

``nt_xent_backward(grad, x, y, rows, temperature, need_x, need_y) -> (grad_x | None, grad_y |
None)``

* ``grad`` [3]: gradient of ``terms``, any stride. With P_ij = exp(s_ij - lse_i) off the diagonal
  and 0 on it, and Q the matrix of the pairs (i, p(i)),

      dL/du = ((g_0 + g_2) (P + P^T) - 2 (g_0 + g_1) Q) u / (2N temperature)
      dL/dz = (dL/du - u (u . dL/du)) / norm,  or dL/du / 1e-12 for a row shorter than that

* results [N, D], contiguous, in the input's dtype; None for a view whose ``need`` is False.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from sslkernels.backends import select
from sslkernels.ops.vicreg import result_dtype

MIN_NORM = 1e-12  # as torch.nn.functional.normalize


@torch.library.custom_op("sslkernels::nt_xent", mutates_args=())
def nt_xent(x: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return select("nt_xent", x).nt_xent_forward(x, y, temperature)


@torch.library.custom_op("sslkernels::nt_xent_backward", mutates_args=())
def nt_xent_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
    temperature: float,
    need_x: bool,
    need_y: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """An unneeded gradient is an empty tensor: an operator cannot return None."""
    grads = importlib.import_module(backend).nt_xent_backward(
        grad, x, y, rows, temperature, need_x, need_y
    )
    grad_x, grad_y = (x.new_empty(0) if g is None else g for g in grads)
    return grad_x, grad_y


@nt_xent.register_fake
def _(x: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    rows = x.new_empty((2, 2 * x.shape[0]), dtype=torch.float64)
    return x.new_empty(3, dtype=result_dtype(x.dtype)), rows


@nt_xent_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
    temperature: float,
    need_x: bool,
    need_y: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    shapes = (x.shape if needed else (0,) for needed in (need_x, need_y))
    grad_x, grad_y = (x.new_empty(shape) for shape in shapes)
    return grad_x, grad_y


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, ctx.temperature = inputs
    ctx.save_for_backward(x, y, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    # The backward pass may run on another thread, where a use_backend block is not seen.
    ctx.backend = select("nt_xent", x).__name__


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    need_x, need_y = ctx.needs_input_grad[:2]
    x, y, rows = ctx.saved_tensors
    grad_x, grad_y = nt_xent_backward(
        grad, x, y, rows, ctx.temperature, need_x, need_y, ctx.backend
    )
    return grad_x if need_x else None, grad_y if need_y else None, None


def _no_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "the NT-Xent loss is differentiable once: no second derivative (double backward) is "
        "implemented for sslkernels::nt_xent_backward"
    )


nt_xent.register_autograd(_differentiate, setup_context=_setup_context)
nt_xent_backward.register_autograd(_no_double_backward)
