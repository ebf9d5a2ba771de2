"""SIGReg's sums over random slices as one operator forward and one backward.

For slices a_m (unit rows) and knots t_k, the operator adds up over the N rows of z

    sums[m, k] = sum_n (cos(t_k a_m . z_n), sin(t_k a_m . z_n)),

slices x knots numbers, in tiles of rows and slices: nothing of size N x slices is kept. What the
loss makes of the sums is a few operations of torch (``sslkernels/losses/sigreg.py``).

Slices are drawn by position, so that every device, rank and backend draws the same ones and none
needs to be sent or stored. Element d of slice m comes from Philox 4x32-10 with the seed as key and
the counter (d // 4, m, step's low half, step's high half); with r the output words shifted to 24
bits, Box-Muller gives sqrt(-2 log((r_0 + 1) / 2^24)) times cosine and sine of 2 pi r_1 / 2^24, and
the same from r_2 and r_3. Each slice is then divided by its norm.

What every backend implements, on a checked z [N, D], any strides:

``sigreg_forward(z, step, settings) -> sums``, with :class:`SIGRegSettings`

* ``step``: int64 of no dimension; on z's device or the CPU, and never read on the host for a z that
  lies elsewhere.
* ``sums`` [num_slices, num_knots, 2] float64, contiguous: cosines, sines.

``sigreg_backward(grad, z, step, settings) -> grad_z``

* ``grad``: gradient of ``sums``, any strides; with g, h its two parts,

      dL/dz_n = sum_m a_m sum_k t_k (h_mk cos(t_k a_m . z_n) - g_mk sin(t_k a_m . z_n))

* ``grad_z`` [N, D], contiguous, in z's dtype.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.passes._declare import declare, differentiate, once_differentiable, save
from sslkernels.passes.selection import named, select


class SIGRegSettings(NamedTuple):
    """The options of both operators, in their order."""

    num_slices: int  # random directions
    num_knots: int  # equally spaced, at least 2
    t_min: float  # the first knot
    t_max: float  # the last one
    seed: int  # the key of the slices' numbers

    def spacing(self) -> float:
        """The distance from knot to knot."""
        return (self.t_max - self.t_min) / (self.num_knots - 1)


def step_beside(z: Tensor, step: Tensor) -> Tensor:
    """``step`` on z's device. From the CPU it goes by value, in the launch that writes it: a copy
    from pageable memory may not be captured in a graph."""
    if step.device == z.device:
        return step
    if step.device.type == "cpu":
        return torch.full((), int(step), dtype=torch.int64, device=z.device)
    return step.to(z.device, non_blocking=True)


_SETTINGS = "SymInt num_slices, SymInt num_knots, float t_min, float t_max, SymInt seed"


def _forward(z: Tensor, step: Tensor, *settings: Any) -> Tensor:
    return select("sigreg", z).sigreg_forward(z, step, SIGRegSettings(*settings))


def _forward_fake(z: Tensor, step: Tensor, *settings: Any) -> Tensor:
    num_slices, num_knots, *_ = settings
    return z.new_empty((num_slices, num_knots, 2), dtype=torch.float64)


def _backward(grad: Tensor, z: Tensor, step: Tensor, *options: Any) -> Tensor:
    *settings, backend = options
    passes = named(backend)
    return passes.sigreg_backward(grad, z, step, SIGRegSettings(*settings))


def _backward_fake(grad: Tensor, z: Tensor, *_: Any) -> Tensor:
    return z.new_empty(z.shape)


sigreg = declare(
    "sigreg", f"(Tensor z, Tensor step, {_SETTINGS}) -> Tensor", _forward, _forward_fake
)
sigreg_backward = declare(
    "sigreg_backward",
    f"(Tensor grad, Tensor z, Tensor step, {_SETTINGS}, str backend) -> Tensor",
    _backward,
    _backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    z, step, *ctx.settings = inputs
    save(ctx, z, step)
    # The backward pass may run on another thread, where a use_backend block is not seen.
    ctx.backend = select("sigreg", z).__name__


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    z, step = ctx.saved_tensors
    grad_z = sigreg_backward(grad, z, step, *ctx.settings, ctx.backend)
    return (grad_z, None, *(None,) * len(ctx.settings))


def _along(ctx: Any, on_z: Tensor, *_: None) -> Tensor:
    passes = named("torch")
    z, step = ctx.saved_tensors
    return passes.sigreg_along(on_z, z, step, SIGRegSettings(*ctx.settings))


differentiate(sigreg, _setup_context, _differentiate, _along)
once_differentiable(sigreg_backward, "SIGReg loss")
