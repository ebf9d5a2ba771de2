"""Barlow Twins: redundancy reduction between two views.

Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction"
(ICML 2021, arXiv 2103.03230). With a and b the views of N rows and D columns, each column
normalized to mean 0 and variance 1, and C = a^T b / N,

    loss = on_diagonal + lambda * off_diagonal,
    on_diagonal = sum_i (C_ii - 1)^2,   off_diagonal = sum_{i != j} C_ij^2.

As in the authors' code, normalization is batch normalization without parameters: the biased
variance of the batch, eps 1e-5 added to it, gradients through mean and variance. Their lambda is
0.0051; lightly's and solo-learn's default is 0.005, and solo-learn multiplies the loss by 0.025. No
running statistics are kept. How it is computed without the D x D matrix:
``sslkernels/passes/barlow_twins.py``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed import batch as _distributed
from sslkernels.distributed.barlow_twins import barlow_twins as _distributed_barlow_twins
from sslkernels.losses import _checks
from sslkernels.passes.barlow_twins import barlow_twins as _barlow_twins


class BarlowTwinsTerms(NamedTuple):
    """The loss and its unweighted terms: differentiable 0-d tensors."""

    loss: Tensor
    on_diagonal: Tensor
    off_diagonal: Tensor


def barlow_twins_loss(
    x: Tensor, y: Tensor, *, lambda_: float | Tensor = 0.0051, eps: float = 1e-5, group: Any = None
) -> Tensor:
    """The Barlow Twins loss of two views.

    Computed in float32 (float64 for float64 input) whatever the input, inside autocast too. Memory
    beyond the gradients: about min(N, D)^2, kept for backward (twice where N is the smaller), and a
    working copy of x and y. A column that does not vary is normalized to zeros: it adds 1 to
    on_diagonal.

    Args:
        x: embeddings of the first view, [N, D] with N >= 2; float16, bfloat16, float32 or float64;
            any strides.
        y: the second view: x's shape, dtype and device; row i of both is the same sample.
        lambda_: weight of the off-diagonal term; a tensor of one number gets its gradient.
        eps: added to variances before the square root; positive.
        group: the ranks whose rows are one batch: "world", a ``torch.distributed`` process group,
            or None, this process alone. The value is the global batch's, and gradients are
            world_size times its gradients, for DDP to average: ``docs/distributed.md``.

    Returns:
        A 0-d tensor: float64 for float64 input, else float32. NaN for NaN or infinite input.
        Gradients come in the input's dtype; there is no second derivative.

    Raises:
        TypeError: x or y is not a torch tensor, or of another dtype; an option is not a number.
        ValueError: shapes or devices differ, N < 2 or D < 1; an option is out of range; ranks
            of the group disagree.

    Example:
        >>> import torch
        >>> from sslkernels.losses import barlow_twins_loss
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 1.0]])  # the second column does not vary
        >>> barlow_twins_loss(x, x)
        tensor(1.)
    """
    return barlow_twins_terms(x, y, lambda_, eps, group)[0]


class BarlowTwinsLoss(torch.nn.Module):
    """The Barlow Twins loss of two views as a module; as :func:`barlow_twins_loss`.

    Args:
        lambda_param: weight of the off-diagonal term.
        eps: added to variances before the square root.
        group: as there.

    Example:
        >>> import torch
        >>> from sslkernels.losses import BarlowTwinsLoss
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 2.0]])  # two equal columns
        >>> terms = BarlowTwinsLoss(lambda_param=0.5).forward_components(x, x)
        >>> terms.off_diagonal, terms.loss
        (tensor(2.0000), tensor(1.0000))
    """

    def __init__(
        self, lambda_param: float | Tensor = 0.0051, *, eps: float = 1e-5, group: Any = None
    ) -> None:
        super().__init__()
        self.group = _distributed.valid_group(group)
        self.lambda_param, self.eps = _options(lambda_param, "lambda_param", eps)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of two views [N, D], as :func:`barlow_twins_loss`."""
        return barlow_twins_terms(x, y, self.lambda_param, self.eps, self.group)[0]

    def forward_components(self, x: Tensor, y: Tensor) -> BarlowTwinsTerms:
        """The loss and its unweighted terms, all differentiable, for the cost of the loss."""
        terms = barlow_twins_terms(x, y, self.lambda_param, self.eps, self.group)
        return BarlowTwinsTerms(*terms.unbind())

    def extra_repr(self) -> str:
        return f"lambda_param={self.lambda_param}, eps={self.eps}"


def _options(lambda_: float | Tensor, name: str, eps: float) -> tuple[float | Tensor, float]:
    eps = _checks.number(eps, "eps", 0.0)
    if eps == 0:
        raise ValueError("eps: expected a positive number, got 0: a constant column would be 0 / 0")
    return _checks.weight(lambda_, name), eps


def barlow_twins_terms(
    x: Tensor,
    y: Tensor,
    lambda_: float | Tensor,
    eps: float,
    group: Any,
    names: tuple[str, str] = ("x", "y"),
) -> Tensor:
    """[3]: loss, on_diagonal, off_diagonal; errors call the views by ``names``."""
    group = _distributed.found_group(group)

    def check(min_rows: int) -> None:
        _options(lambda_, "lambda_", eps)
        _checks.pair(x, y, min_rows=min_rows, names=names)

    def terms_of(weight: float) -> Tensor:
        if batch is None:
            return _barlow_twins(x, y, weight, eps)[0]
        return _distributed_barlow_twins(x, y, batch, weight, eps)

    batch = None
    if group is None:
        check(2)
    else:
        options = (_checks.agreed(lambda_), eps)
        batch = _distributed.agree(
            group, "Barlow Twins", partial(check, 1), (x, y), options, min_rows=2
        )
    if isinstance(lambda_, Tensor) or torch.compiler.is_compiling():
        _, on, off = terms_of(0.0).unbind()
        return torch.stack((on + _checks.times(lambda_, off), on, off))
    return terms_of(lambda_)
