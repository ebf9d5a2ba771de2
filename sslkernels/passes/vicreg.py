"""VICReg as one operator forward and one backward.

``sslkernels::vicreg(x, y, *settings) -> (terms, mean, var, gram)``

takes one view (``y`` is None) or two, [N, D] or [N, ..., D], and the fields of
:class:`VICRegSettings`. The backends see [P, N, D]: P separate problems, the product of the middle
dimensions. With Z one view's rows of one problem, centered per column, v_j = sum_i z_ij^2 / (N-1)
and V the number of views:

    invariance = mean (x - y)^2                                              (0 for one view)
    variance   = mean over views, problems and columns of max(0, gamma - sqrt(v_j + eps))
    covariance = sum over views, mean over problems, of sum_{i != j} S_ij^2 / D,  S = Z^T Z / (N-1)
    loss       = sim * invariance + std * variance + cov * covariance

The D x D matrix is formed only where it is the small one. By ||Z^T Z||_F = ||Z Z^T||_F,

    sum_{i != j} S_ij^2 = ||Z Z^T||_F^2 / (N-1)^2 - sum_j v_j^2,

so a wide problem (``numerics/views.py``) takes K = Z Z^T, N x N, and any other the off-diagonal of
Z^T Z. The error of a wide problem's covariance is relative to sum_ij S_ij^2, diagonal included;
that is also its own magnitude unless nearly all columns are constant.

What every backend implements, on checked tensors of one device, x and y being [P, N, D] with any
strides (zero included):

``vicreg_forward(x, y, settings, *, part=None) -> (terms, mean, var, gram)``

* ``terms`` [4]: loss, invariance, variance, covariance; a term whose flag is False is 0. float64
  for float64 input and float32 for any other (the "result dtype").
* ``mean`` [V, P, D] float64, contiguous: column means. Float64 so that z = (x - hi) - lo with
  hi = float32(mean), lo = float32(mean - hi) keeps its digits under a large common offset.
* ``var`` [V, P, D] float64, contiguous: unbiased v_j.
  Both are [V, P, 0] when neither variance nor covariance is asked for.
* ``gram`` [V, P, M, M] in the result dtype, contiguous, both triangles, unscaled: Z Z^T with M = N
  if ``wide(N, D)``, else Z^T Z with its DIAGONAL SET TO ZERO and M = D. M = 0 without covariance.

``vicreg_backward(grad, x, y, mean, var, gram, settings, need_x, need_y, *, part=None)
-> (grad_x | None, grad_y | None)``

* ``grad`` [4]: gradient of ``terms``, result dtype, any stride (0 included), on x's device; never
  read on the host for a device tensor. With g_t = grad[0] * coefficient_t + grad[t]:

      wide:      dc/dZ = 4 / (D (N-1)^2) K Z - 4 / (D (N-1)) Z diag(v)
      otherwise: dc/dZ = 4 / (D (N-1)^2) Z G,  G = gram
      variance:  -z_ij / (V D (N-1) sd_j)  where sd_j = sqrt(v_j + eps) < gamma
      invariance: 2 (x - y) / (P N D) for x, its negative for y

  and variance and covariance divided by P.
* results [P, N, D], contiguous, in the input's dtype; None for a view whose ``need`` is False.

Any backend's backward serves any backend's forward. Neither pass synchronises a device.

**Parts.** With ``part`` x and y are some rows of all columns, or some columns of all rows, of a
batch of ``part.rows`` x ``part.columns``. These sizes stand for N and D above wherever something is
divided by them, and in ``wide(N, D)``. What a part leaves is to be merged by the caller:

* ``terms``: its share of the invariance; if it has all rows, of the variance too. The rest is
  undefined.
* ``mean``: over its own rows; ``var``: sums of squares around that mean, divided by N-1.
* ``gram``: of its own rows, centered by ``mean``.

``vicreg_backward`` takes mean, var and gram of the whole batch, for the part's columns. Gradients
come in the result dtype: more is to be added to them.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.numerics.views import result_dtype, wide
from sslkernels.passes._declare import along, declare, differentiate, save
from sslkernels.passes.selection import named, select


class VICRegSettings(NamedTuple):
    """The options of both operators, in their order."""

    # Weights in the loss of the terms. Tensors are for callers: operators get numbers.
    sim: float | Tensor = 0.0
    std: float | Tensor = 0.0
    cov: float | Tensor = 0.0
    gamma: float = 1.0  # standard deviation below which a column counts
    eps: float = 1e-4  # added to variances before the square root
    invariance: bool = True  # whether the term is asked for
    variance: bool = True
    covariance: bool = True


class Part(NamedTuple):
    """The whole batch's sizes, for a pass that sees some of its rows or columns."""

    rows: int
    columns: int


def empty_results(
    x: Tensor,  # [P, N, D]
    y: Tensor | None,
    settings: VICRegSettings,
    part: Part | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Terms, mean, var and gram for a forward pass to fill."""
    p, n, d = x.shape
    views = 1 if y is None else 2
    moments = (views, p, d if settings.variance or settings.covariance else 0)
    side = (n if wide(*(part or (n, d))) else d) if settings.covariance else 0
    dtype = result_dtype(x.dtype)
    return (
        x.new_empty(4, dtype=dtype),
        x.new_empty(moments, dtype=torch.float64),
        x.new_empty(moments, dtype=torch.float64),
        x.new_empty((views, p, side, side), dtype=dtype),
    )


def problems(z: Tensor) -> Tensor:
    """[N, D] or [N, ..., D] as [P, N, D], a view wherever the middle dimensions allow one."""
    return z.unsqueeze(0) if z.ndim == 2 else z.flatten(1, -2).transpose(0, 1)


def unproblems(grad: Tensor, z: Tensor) -> Tensor:
    """[P, N, D] back in the shape of z."""
    return grad.squeeze(0) if z.ndim == 2 else grad.transpose(0, 1).unflatten(1, z.shape[1:-1])


def _forward(x: Tensor, y: Tensor | None, *settings: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    other = None if y is None else problems(y)
    return select("vicreg", x).vicreg_forward(problems(x), other, VICRegSettings(*settings))


def _forward_fake(
    x: Tensor, y: Tensor | None, *settings: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return empty_results(problems(x), y, VICRegSettings(*settings))


def _backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gram: Tensor,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """An unneeded gradient is an empty tensor: an operator cannot return None."""
    *settings, need_x, need_y, backend = options
    grad_x, grad_y = named(backend).vicreg_backward(
        grad,
        problems(x),
        None if y is None else problems(y),
        *(mean, var, gram),
        VICRegSettings(*settings),
        *(need_x, need_y),
    )
    return (
        x.new_empty(0) if grad_x is None else unproblems(grad_x, x),
        x.new_empty(0) if grad_y is None or y is None else unproblems(grad_y, y),
    )


def _backward_fake(
    grad: Tensor, x: Tensor, y: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    *_, need_x, need_y, _backend = options

    def like(z: Tensor | None, needed: bool) -> Tensor:
        if z is None or not needed:
            return x.new_empty(0)
        return unproblems(x.new_empty(problems(z).shape), z)

    return like(x, need_x), like(y, need_y)


_SETTINGS = (
    "float sim, float std, float cov, float gamma, float eps, "
    "bool invariance, bool variance, bool covariance"
)
vicreg = declare(
    "vicreg",
    f"(Tensor x, Tensor? y, {_SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
)
vicreg_backward = declare(
    "vicreg_backward",
    "(Tensor grad, Tensor x, Tensor? y, Tensor mean, Tensor var, Tensor gram, "
    f"{_SETTINGS}, bool need_x, bool need_y, str backend) -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, *ctx.settings = inputs
    _, *kept = output
    save(ctx, x, y, *kept)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)
    # The backward pass may run on another thread, where a use_backend block is not seen.
    ctx.backend = select("vicreg", x).__name__


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * len(ctx.settings)
    if grad is None:
        return (None, None, *nothing)
    need_x, need_y = ctx.needs_input_grad[:2]
    grad_x, grad_y = vicreg_backward(
        grad, *ctx.saved_tensors, *ctx.settings, need_x, need_y, ctx.backend
    )
    return (grad_x if need_x else None, grad_y if need_y else None, *nothing)


def _along(ctx: Any, on_x: Tensor | None, on_y: Tensor | None, *_: None) -> tuple[Any, ...]:
    x, y, *kept = ctx.saved_tensors
    dtype = result_dtype(x.dtype)
    x, y = (None if z is None else z.to(dtype) for z in (x, y))
    options = (*ctx.settings, on_x is not None, on_y is not None, ctx.backend)

    def gradients(grad: Tensor) -> tuple[Tensor, Tensor]:
        return vicreg_backward(grad.to(dtype), x, y, *kept, *options)

    return (along(gradients, 4, (on_x, on_y)).to(dtype), None, None, None)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, x, y, mean, var, gram, *ctx.options = inputs
    save(ctx, grad, x, y, mean, var, gram)
    ctx.set_materialize_grads(False)


def _twice(ctx: Any, on_x: Tensor | None, on_y: Tensor | None) -> tuple[Tensor, ...]:
    """By grad and the views; see ``vicreg_twice.py``."""
    second = importlib.import_module("sslkernels.passes.vicreg_twice")  # which imports this module
    grad, x, y, *_ = ctx.saved_tensors
    given = [(z, on) for z, on in ((x, on_x), (y, on_y)) if z is not None]
    views, on_grads = zip(*given, strict=True)
    return second.twice(grad, views, VICRegSettings(*ctx.options[:-3]), on_grads)


def _differentiate_backward(
    ctx: Any, on_x: Tensor | None, on_y: Tensor | None
) -> tuple[Tensor | None, ...]:
    need_x, need_y, _ = ctx.options[-3:]
    results = _twice(ctx, on_x if need_x else None, on_y if need_y else None)
    return (*results, *(None,) * (6 + len(ctx.options) - len(results)))


def _backward_along(
    ctx: Any, on_grad: Tensor | None, on_x: Tensor | None, on_y: Tensor | None, *_: None
) -> tuple[Tensor, ...]:
    grad, *kept = ctx.saved_tensors
    # Linear in grad; and second derivatives are symmetric.
    linear = vicreg_backward(grad if on_grad is None else on_grad, *kept, *ctx.options)
    curved = _twice(ctx, on_x, on_y)[1:]
    results = []
    for v, each in enumerate(linear):
        if each.numel() == 0:  # the place of a gradient that nobody needs
            results.append(torch.zeros_like(each))
            continue
        tangent = curved[v] if on_grad is None else curved[v] + each
        # Forward mode asks for tangents of their tensors' strides.
        results.append(unproblems(problems(tangent).contiguous(), each))
    return tuple(results)


differentiate(vicreg, _setup_context, _differentiate, _along)
differentiate(vicreg_backward, _setup_backward, _differentiate_backward, _backward_along)
