"""Barlow Twins as one operator forward and one backward.

With a, b the views normalized per column, (x - mean) / sqrt(var + eps) with the biased variance,
C = a^T b / N their cross-correlation and c its diagonal:

    on_diagonal  = sum_j (c_j - 1)^2
    off_diagonal = sum_{i != j} C_ij^2
    loss         = on_diagonal + lambda * off_diagonal

The D x D matrix is formed only where it is the small one. By ||a^T b||_F^2 = <a a^T, b b^T>,

    sum_{i != j} C_ij^2 = <K_a, K_b> / N^2 - sum_j c_j^2,   K_a = a a^T, K_b = b b^T,

so a wide problem (``numerics/views.py``) takes two symmetric N x N products.

What every backend implements, on checked tensors of one device, x and y being [N, D], any strides:

``barlow_twins_forward(x, y, lambda_, eps, *, part=None) -> (terms, columns, gram)``

* ``terms`` [3]: loss, on_diagonal, off_diagonal; float64 for float64 input, float32 for any other
  (the "result dtype").
* ``columns`` [5, D] float64, contiguous: the means of x and y, their factors 1 / sqrt(var + eps),
  and c. Means are float64 so that x - mean keeps its digits under a large common offset.
* ``gram`` in the result dtype, contiguous: [2, N, N], K_a and K_b, if wide, else [1, D, D], C with
  its DIAGONAL SET TO ZERO.

``barlow_twins_backward(grad, x, y, columns, gram, lambda_, need_x, need_y, *,
part=None, squares=None) -> (grad_x | None, grad_y | None)``

* ``grad`` [3]: gradient of ``terms``, any stride. With g_on = grad[0] + grad[1] and
  g_off = grad[0] * lambda + grad[2],

      wide:      dL/da = 2 g_off / N^2 K_b a + 2 / N b diag(g_on (c - 1) - g_off c)
      otherwise: dL/da = 2 g_off / N b C^T   + 2 / N b diag(g_on (c - 1)),  C = gram
      dL/dx = (dL/da - a diag(mean over rows of a dL/da)) diag(factor)

  (the columns of dL/da sum to zero), and for b with the views exchanged, C for C^T.
* results [N, D], contiguous, in the input's dtype; None for a view whose ``need`` is False.

**Parts** (``sslkernels/passes/vicreg.py``). ``part.rows`` stands for N above, and decides with
``part.columns`` whether the problem is wide. ``barlow_twins_forward`` leaves the columns and gram
of its own rows, C divided by their own number; its terms are undefined. ``barlow_twins_backward``
takes columns and gram of the whole batch, for the part's columns, and

* ``squares`` [2, D] float64: what stands for q in

      mean over rows of a dL/da = 2/N (g_off q + g_on (c - 1) c),

  if the part has not all rows: the squared row norms of C' = gram for a, column norms for b;
* an empty ``gram``, for the gradient of g_on's part alone.

Gradients come in the result dtype: more is to be added to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.numerics.views import result_dtype, wide
from sslkernels.passes._declare import along, declare, differentiate, once_differentiable, save
from sslkernels.passes.selection import named, select


def _forward(x: Tensor, y: Tensor, lambda_: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return select("barlow_twins", x).barlow_twins_forward(x, y, lambda_, eps)


def _forward_fake(
    x: Tensor, y: Tensor, lambda_: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    n, d = x.shape
    dtype = result_dtype(x.dtype)
    return (
        x.new_empty(3, dtype=dtype),
        x.new_empty((5, d), dtype=torch.float64),
        x.new_empty((2, n, n) if wide(n, d) else (1, d, d), dtype=dtype),
    )


def _backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    columns: Tensor,
    gram: Tensor,
    lambda_: float,
    need_x: bool,
    need_y: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """An unneeded gradient is an empty tensor: an operator cannot return None."""
    grads = named(backend).barlow_twins_backward(grad, x, y, columns, gram, lambda_, need_x, need_y)
    grad_x, grad_y = (x.new_empty(0) if g is None else g for g in grads)
    return grad_x, grad_y


def _backward_fake(grad: Tensor, x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    *_, need_x, need_y, _backend = options
    shapes = (x.shape if needed else (0,) for needed in (need_x, need_y))
    grad_x, grad_y = (x.new_empty(shape) for shape in shapes)
    return grad_x, grad_y


barlow_twins = declare(
    "barlow_twins",
    "(Tensor x, Tensor y, float lambda_, float eps) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
)
barlow_twins_backward = declare(
    "barlow_twins_backward",
    "(Tensor grad, Tensor x, Tensor y, Tensor columns, Tensor gram, float lambda_, "
    "bool need_x, bool need_y, str backend) -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, ctx.lambda_, _ = inputs
    _, columns, gram = output
    save(ctx, x, y, columns, gram)
    ctx.mark_non_differentiable(columns, gram)
    ctx.set_materialize_grads(False)
    # The backward pass may run on another thread, where a use_backend block is not seen.
    ctx.backend = select("barlow_twins", x).__name__


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 4
    need_x, need_y = ctx.needs_input_grad[:2]
    grad_x, grad_y = barlow_twins_backward(
        grad, *ctx.saved_tensors, ctx.lambda_, need_x, need_y, ctx.backend
    )
    return grad_x if need_x else None, grad_y if need_y else None, None, None


def _along(ctx: Any, on_x: Tensor | None, on_y: Tensor | None, *_: None) -> tuple[Any, ...]:
    x, y, columns, gram = ctx.saved_tensors
    dtype = result_dtype(x.dtype)
    inputs = (x.to(dtype), y.to(dtype), columns, gram, ctx.lambda_)
    options = (on_x is not None, on_y is not None, ctx.backend)

    def gradients(grad: Tensor) -> tuple[Tensor, Tensor]:
        return barlow_twins_backward(grad.to(dtype), *inputs, *options)

    return along(gradients, 3, (on_x, on_y)).to(dtype), None, None


differentiate(barlow_twins, _setup_context, _differentiate, _along)
once_differentiable(barlow_twins_backward, "Barlow Twins loss")
