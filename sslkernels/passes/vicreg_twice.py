"""Second derivatives of VICReg: its formula in operations of torch, which differentiates it twice.

For gradient penalties and Hessian-vector products, not for training steps: it takes several times
the time and memory of a backward pass. Under create_graph further derivatives follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.numerics.views import result_dtype, wide
from sslkernels.passes import vicreg


def _terms(views: Sequence[Tensor], settings: vicreg.VICRegSettings) -> Tensor:
    """[4], the terms of ``sslkernels/passes/vicreg.py`` of one or two views."""
    dtype = result_dtype(views[0].dtype)
    problems = [vicreg.problems(z).to(dtype) for z in views]
    p, n, d = problems[0].shape
    zero = problems[0].new_zeros(())
    invariance = (problems[0] - problems[-1]).square().mean() if settings.invariance else zero
    variance = covariance = zero
    for z in problems if settings.variance or settings.covariance else ():
        near = z - z[:, :1].detach()  # a common offset costs no digits
        centered = near - near.mean(1, keepdim=True)
        var = centered.square().sum(1) / (n - 1)
        if settings.variance:
            hinge = torch.relu(settings.gamma - (var + settings.eps).sqrt())
            variance = variance + hinge.mean() / len(views)
        if settings.covariance and wide(n, d):
            squares = (centered @ centered.mT).square().sum() / (n - 1) ** 2 - var.square().sum()
            covariance = covariance + squares / (p * d)
        elif settings.covariance:
            off_diagonal = centered.mT @ centered / (n - 1) - torch.diag_embed(var)
            covariance = covariance + off_diagonal.square().sum() / (p * d)
    loss = settings.sim * invariance + settings.std * variance + settings.cov * covariance
    return torch.stack((loss, invariance, variance, covariance))


def twice(
    grad: Tensor,  # [4], of the terms
    views: Sequence[Tensor],
    settings: vicreg.VICRegSettings,
    on_grads: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """The gradients by ``grad`` and by the views of sum <gradient by a view, on_grad of it>.

    Those by the views are also the derivatives of the views' gradients along ``on_grads``: a matrix
    of second derivatives is symmetric.
    """

    def gradients(grad: Tensor, *views: Tensor) -> tuple[Tensor, ...]:
        pull = torch.func.vjp(lambda *z: _terms(z, settings), *views)[1]
        return pull(grad)

    with torch.autocast(views[0].device.type, enabled=False):
        pull = torch.func.vjp(gradients, grad, *views)[1]
        return pull(
            tuple(
                torch.zeros_like(z) if on is None else on
                for on, z in zip(on_grads, views, strict=True)
            )
        )
