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

so a wide problem (:func:`wide`) takes K = Z Z^T, N x N, and any other the off-diagonal of Z^T Z.
The subtraction loses a factor of about D / (D - N + 1) when the data is white; ``wide`` asks for
8 N <= 7 D, which holds that to 8 for at most 8/7 of the cheaper side's work. In general the error
of a wide problem's covariance is relative to sum_ij S_ij^2, diagonal included; that is also its own
magnitude unless nearly all columns are constant.

What every backend implements, on checked tensors of one device, x and y being [P, N, D] with any
strides (zero included):

``vicreg_forward(x, y, settings) -> (terms, mean, var, gram)``

* ``terms`` [4]: loss, invariance, variance, covariance; a term whose flag is False is 0. float64
  for float64 input and float32 for any other (the "result dtype").
* ``mean`` [V, P, D] float64, contiguous: column means. Float64 so that z = (x - hi) - lo with
  hi = float32(mean), lo = float32(mean - hi) keeps its digits under a large common offset.
* ``var`` [V, P, D] float64, contiguous: unbiased v_j.
  Both are [V, P, 0] when neither variance nor covariance is asked for.
* ``gram`` [V, P, M, M] in the result dtype, contiguous, both triangles, unscaled: Z Z^T with M = N
  if ``wide(N, D)``, else Z^T Z with its DIAGONAL SET TO ZERO and M = D. M = 0 without covariance.

``vicreg_backward(grad, x, y, mean, var, gram, settings, need_x, need_y)
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
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.backends import select


class VICRegSettings(NamedTuple):
    """The options of both operators, in their order."""

    sim: float = 0.0  # weight in the loss of the invariance term,
    std: float = 0.0  # the variance term
    cov: float = 0.0  # and the covariance term
    gamma: float = 1.0  # standard deviation below which a column counts
    eps: float = 1e-4  # added to variances before the square root
    invariance: bool = True  # whether the term is asked for
    variance: bool = True
    covariance: bool = True


_SETTINGS = (
    "float sim, float std, float cov, float gamma, float eps, "
    "bool invariance, bool variance, bool covariance"
)

torch.library.define(
    "sslkernels::vicreg",
    f"(Tensor x, Tensor? y, {_SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "sslkernels::vicreg_backward",
    "(Tensor grad, Tensor x, Tensor? y, Tensor mean, Tensor var, Tensor gram, "
    f"{_SETTINGS}, bool need_x, bool need_y, str backend) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


def wide(n: int, d: int) -> bool:
    """Whether an N x D problem takes the N x N side; see the module docstring."""
    return 8 * n <= 7 * d


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty_results(
    x: Tensor,  # [P, N, D]
    y: Tensor | None,
    settings: VICRegSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Terms, mean, var and gram for a forward pass to fill."""
    p, n, d = x.shape
    views = 1 if y is None else 2
    moments = (views, p, d if settings.variance or settings.covariance else 0)
    side = (n if wide(n, d) else d) if settings.covariance else 0
    dtype = result_dtype(x.dtype)
    return (
        x.new_empty(4, dtype=dtype),
        x.new_empty(moments, dtype=torch.float64),
        x.new_empty(moments, dtype=torch.float64),
        x.new_empty((views, p, side, side), dtype=dtype),
    )


def _problems(z: Tensor) -> Tensor:
    """[N, D] or [N, ..., D] as [P, N, D], a view wherever the middle dimensions allow one."""
    return z.unsqueeze(0) if z.ndim == 2 else z.flatten(1, -2).transpose(0, 1)


def _unproblems(grad: Tensor, z: Tensor) -> Tensor:
    """[P, N, D] back in the shape of z."""
    return grad.squeeze(0) if z.ndim == 2 else grad.transpose(0, 1).unflatten(1, z.shape[1:-1])


@torch.library.impl("sslkernels::vicreg", "CompositeExplicitAutograd")
def _forward(x: Tensor, y: Tensor | None, *settings: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    other = None if y is None else _problems(y)
    return select("vicreg", x).vicreg_forward(_problems(x), other, VICRegSettings(*settings))


@torch.library.register_fake("sslkernels::vicreg")
def _forward_fake(
    x: Tensor, y: Tensor | None, *settings: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return empty_results(_problems(x), y, VICRegSettings(*settings))


@torch.library.impl("sslkernels::vicreg_backward", "CompositeExplicitAutograd")
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
    grad_x, grad_y = importlib.import_module(backend).vicreg_backward(
        grad,
        _problems(x),
        None if y is None else _problems(y),
        *(mean, var, gram),
        VICRegSettings(*settings),
        *(need_x, need_y),
    )
    return (
        x.new_empty(0) if grad_x is None else _unproblems(grad_x, x),
        x.new_empty(0) if grad_y is None or y is None else _unproblems(grad_y, y),
    )


@torch.library.register_fake("sslkernels::vicreg_backward")
def _backward_fake(
    grad: Tensor, x: Tensor, y: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    *_, need_x, need_y, _backend = options

    def like(z: Tensor | None, needed: bool) -> Tensor:
        if z is None or not needed:
            return x.new_empty(0)
        return _unproblems(x.new_empty(_problems(z).shape), z)

    return like(x, need_x), like(y, need_y)


class _VICReg(torch.autograd.Function):
    """The autograd formula, at the Autograd key by itself: the same by way of
    torch.library.register_autograd takes 50 us more per step, of 170 in all for a tiny batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, *settings: Any) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            terms, mean, var, gram = torch.ops.sslkernels.vicreg.default(x, y, *settings)
        ctx.save_for_backward(x, y, mean, var, gram)
        ctx.mark_non_differentiable(mean, var, gram)
        ctx.set_materialize_grads(False)
        ctx.settings = settings
        # The backward pass may run on another thread, where a use_backend block is not seen.
        ctx.backend = select("vicreg", x).__name__
        return terms, mean, var, gram

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        nothing = (None,) * len(ctx.settings)
        if grad is None:
            return (None, None, *nothing)
        x, y, mean, var, gram = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad[:2]
        grad_x, grad_y = torch.ops.sslkernels.vicreg_backward.default(
            grad, x, y, mean, var, gram, *ctx.settings, need_x, need_y, ctx.backend
        )
        return (grad_x if need_x else None, grad_y if need_y else None, *nothing)


class _VICRegBackward(torch.autograd.Function):
    """Reached with create_graph=True only; says so if that graph is ever walked."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.sslkernels.vicreg_backward.default(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            "the VICReg losses are differentiable once: no second derivative (double backward) is "
            "implemented for sslkernels::vicreg_backward"
        )


@torch.library.impl("sslkernels::vicreg", "Autograd")
def _forward_autograd(*args: Any) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled():
        return _VICReg.apply(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.sslkernels.vicreg.default(*args)


@torch.library.impl("sslkernels::vicreg_backward", "Autograd")
def _backward_autograd(*args: Any) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled():
        return _VICRegBackward.apply(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.sslkernels.vicreg_backward.default(*args)
