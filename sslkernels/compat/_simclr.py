r"""SimCLR's loss of rows with labels: every other row of the same label is a positive.

With u the M unit rows, s_ij = u_i.u_j / temperature, and p_i and n_i the log sum exp of s_ij over
the positives of row i, and over its negatives, the rows of other labels,

    loss = 1/M sum_i l_i,   l_i = log(1 + exp(n_i - p_i))
    dl_i/ds_ij = exp(s_ij - p_i - l_i) for a negative j,  -q_i exp(s_ij - p_i) for a positive
    q_i = 1 - exp(-l_i)

Positives and negatives are never subtracted from one sum of both: a loss that is small, and its
gradient, keep their digits. With w_ij = dl_i/ds_ij,

    dL/du_i = sum_j (w_ij + w_ji) u_j / (M temperature)
    dL/dtemperature = -sum_i u_i.dL/du_i / (2 temperature)

The M x M logits are formed some rows at a time, once for l and once more for the gradients, which
the forward pass leaves behind: an M x D matrix. Two rows of every label are NT-Xent, and take its
pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sslkernels.compat._shared import all_rows
from sslkernels.distributed import batch as _distributed
from sslkernels.distributed.batch import Batch
from sslkernels.numerics.unit_rows import MIN_NORM
from sslkernels.numerics.views import result_dtype
from sslkernels.passes._declare import declare, differentiate, once_differentiable, save
from sslkernels.passes.nt_xent import MIN_TEMPERATURE
from sslkernels.passes.selection import named, select

_LOGITS = 2**20  # in memory at once: 4 MB, which caches hold


def simclr(z: Tensor, labels: Tensor, temperature: Tensor, batch: Batch | None = None) -> Tensor:
    """The loss, 0-d, of z [M, D] with int64 labels [M] and a 0-d temperature.

    With a batch, that of all ranks' rows; gradients are world_size times those of it, for DDP.
    """
    if batch is not None:
        return _of_ranks(z, labels, temperature, batch)
    # Tangents do not ask for gradients, nor do the inputs that a trace is made with.
    always = forward_ad._current_level >= 0 or torch.jit.is_tracing()
    needs = [always or (torch.is_grad_enabled() and t.requires_grad) for t in (z, temperature)]
    return _simclr(z, labels, temperature, *needs)[0]


def _forward(
    z: Tensor, labels: Tensor, temperature: Tensor, need_z: bool, need_t: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its derivatives for z, in the result dtype, and for the temperature.

    An operator, because what is done depends on the labels, which torch.compile cannot look at.
    """
    values, order = labels.sort(stable=True)
    _, counts = values.unique_consecutive(return_counts=True)
    if bool((counts == 2).all()) and MIN_TEMPERATURE <= float(temperature) < torch.inf:
        return _pairs(z, order.view(-1, 2), float(temperature), need_z, need_t)
    return _dense(z, labels, temperature, Batch.alone(z), need_z or need_t)


def _forward_fake(
    z: Tensor, labels: Tensor, temperature: Tensor, need_z: bool, need_t: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = result_dtype(z.dtype)
    on_z = z.new_empty(z.shape if need_z or need_t else 0, dtype=dtype)
    return z.new_empty((), dtype=dtype), on_z, z.new_empty((), dtype=torch.float64)


def _backward(
    grad: Tensor, z: Tensor, temperature: Tensor, on_z: Tensor, on_t: Tensor
) -> tuple[Tensor, Tensor]:
    return (grad * on_z).to(z.dtype), (grad * on_t).to(temperature)


def _backward_fake(
    grad: Tensor, z: Tensor, temperature: Tensor, on_z: Tensor, on_t: Tensor
) -> tuple[Tensor, Tensor]:
    return on_z.new_empty(on_z.shape, dtype=z.dtype), torch.empty_like(temperature)


_simclr = declare(
    "simclr",
    "(Tensor z, Tensor labels, Tensor temperature, bool need_z, bool need_t) "
    "-> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
)
_simclr_backward = declare(
    "simclr_backward",
    "(Tensor grad, Tensor z, Tensor temperature, Tensor on_z, Tensor on_t) -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, _, temperature, *_ = inputs
    save(ctx, z, temperature, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    need_z, _, need_t, *_ = ctx.needs_input_grad
    on_z, on_t = _simclr_backward(grad, *ctx.saved_tensors)
    return on_z if need_z else None, None, on_t if need_t else None, None, None


def _along(ctx: Any, z: Tensor | None, _: None, t: Tensor | None, *__: None) -> tuple[Any, ...]:
    *_, on_z, on_t = ctx.saved_tensors
    products = [(g * v).sum() for g, v in ((on_z, z), (on_t, t)) if v is not None]
    return torch.stack([p.double() for p in products]).sum().to(on_z.dtype), None, None


differentiate(_simclr, _setup_context, _differentiate, _along)
once_differentiable(_simclr_backward, "SimCLR loss")


class _OfRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, temperature: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        loss, on_z, on_t = _dense(z, labels, temperature, batch, any(ctx.needs_input_grad))
        ctx.save_for_backward(z, temperature, on_z, on_t)
        return loss

    @staticmethod
    @_distributed.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(_backward(grad, *ctx.saved_tensors), ctx.needs_input_grad, strict=False)
        return (*(g if needed else None for g, needed in pairs), None, None)


@_distributed.outside_graphs
def _of_ranks(z: Tensor, labels: Tensor, temperature: Tensor, batch: Batch) -> Tensor:
    return _OfRanks.apply(z, temperature, labels, batch)


def _pairs(
    z: Tensor,
    pairs: Tensor,  # [M / 2, 2] rows of the same label
    temperature: float,
    need_z: bool,
    need_t: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = result_dtype(z.dtype)
    x, y = (z[rows].to(dtype) for rows in pairs.unbind(1))
    backend = select("nt_xent", x)
    terms, kept = backend.nt_xent_forward(x, y, temperature)
    on_z = z.new_empty(z.shape if need_z or need_t else 0, dtype=dtype)
    if need_z:
        grad = terms.new_zeros(3)
        grad[0] = 1
        grads = backend.nt_xent_backward(grad, x, y, kept, temperature, True, True)
        for rows, on_view in zip(pairs.unbind(1), grads, strict=True):
            on_z[rows] = on_view
    on_t = z.new_zeros((), dtype=torch.float64)
    if need_t:
        on_t = named("torch").nt_xent_by_temperature(x, y, kept, temperature)[0].clone()
    return terms[0].clone(), on_z, on_t


def _logits(
    u: Tensor, everyone: Tensor, labels: Tensor, first: int, temperature: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of own rows, with whose labels they share and their logits, -inf for a row with
    itself. Own row i is row first + i of everyone."""
    step = max(1, _LOGITS // len(everyone))
    for start in range(0, len(u), step):
        rows = slice(start, min(start + step, len(u)))
        logits = (u[rows] @ everyone.T).div_(temperature)
        logits.diagonal(first + start).fill_(-torch.inf)
        same = labels[first + start : first + rows.stop].unsqueeze(1) == labels
        yield rows, same, logits


def _dense(
    z: Tensor, labels: Tensor, temperature: Tensor, batch: Batch, needed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = result_dtype(z.dtype)
    first = sum(batch.rows[: batch.rank])
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        norm = torch.linalg.vector_norm(z, dim=1, keepdim=True, dtype=torch.float64)
        norm = norm.clamp_min(MIN_NORM)
        u = (z / norm).to(dtype)
        of_all = (u, all_rows(batch, u), all_rows(batch, labels), first, temperature)

        found = []
        for _, same, logits in _logits(*of_all):
            at_positives = logits.masked_fill(~same, -torch.inf).double().logsumexp(1)
            gap = logits.masked_fill_(same, -torch.inf).double().logsumexp(1) - at_positives
            found.append(torch.stack((at_positives, torch.logaddexp(gap, gap.new_zeros(())))))
        rows = all_rows(batch, torch.cat(found, 1).T)  # p and l of all
        loss = rows[:, 1].mean().to(dtype)
        if not needed:
            return loss, u.new_empty(0), norm.new_zeros(())

        on_negatives = rows.sum(1).to(dtype)  # what is subtracted from their logits
        on_positives, share = rows[:, 0].to(dtype), torch.expm1(-rows[:, 1]).to(dtype)
        on_u = torch.empty_like(u)
        for block, same, logits in _logits(*of_all):
            own = slice(first + block.start, first + block.stop)
            weight = torch.zeros_like(logits)
            for of in ((own, None), (None, slice(None))):
                shift = torch.where(same, on_positives[of], on_negatives[of])
                factor = torch.where(same, share[of], 1.0)
                weight += (logits - shift).exp_().mul_(factor)
            on_u[block] = weight @ of_all[1]
        on_u *= batch.world / (batch.total * temperature)
        inside = (on_u * u).sum(1, keepdim=True, dtype=torch.float64)
        on_t = inside.sum() / (-2 * temperature)
        # Shorter rows are divided by a constant, and what points along them counts.
        inside = torch.where(norm > MIN_NORM, inside, 0.0)
        return loss, ((on_u - inside * u) / norm).to(dtype), on_t
