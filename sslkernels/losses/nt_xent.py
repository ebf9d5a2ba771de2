"""NT-Xent, the normalized temperature-scaled cross-entropy of SimCLR.

Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations" (ICML 2020, arXiv 2002.05709). With s_ij the cosine of rows i and j of the 2N rows
of both views, divided by the temperature, and p(i) the row of i's other view,

    loss = mean over i of -log(exp(s_ip(i)) / sum_{k != i} exp(s_ik)) = alignment + uniformity,

alignment being the mean of -s_ip(i) and uniformity that of log sum_{k != i} exp(s_ik). How it is
computed without the 2N x 2N matrix: ``sslkernels/passes/nt_xent.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed import batch as _distributed
from sslkernels.distributed.nt_xent import nt_xent as _distributed_nt_xent
from sslkernels.losses import _checks
from sslkernels.passes.nt_xent import MIN_TEMPERATURE
from sslkernels.passes.nt_xent import nt_xent as _nt_xent


class NTXentTerms(NamedTuple):
    """The loss and the terms it is the sum of: differentiable 0-d tensors."""

    loss: Tensor
    alignment: Tensor
    uniformity: Tensor


def nt_xent_loss(
    x: Tensor, y: Tensor, *, temperature: float | Tensor = 0.5, group: Any = None
) -> Tensor:
    """The NT-Xent loss of two views.

    Computed in float32 (float64 for float64 input) whatever the input, inside autocast too; memory
    beyond the gradients: a few copies of x and y. Where the loss is small, it and its gradient keep
    their digits. As in ``torch.nn.functional.normalize``, rows are divided by max(norm, 1e-12): a
    row of zeros has cosine 0 with every other, and its gradient is 1e12 times that of a unit row.
    One pair (N = 1) has no negatives, and its loss is 0.

    Args:
        x: embeddings of the first view, [N, D] with N >= 1; float16, bfloat16, float32 or float64;
            any strides.
        y: the second view: x's shape, dtype and device; row i of both is the same sample.
        temperature: what cosines are divided by; at least 1e-6. A tensor of one number gets its
            gradient; one on a GPU is waited for.
        group: the ranks whose rows are one batch: "world", a ``torch.distributed`` process group,
            or None, this process alone. The value is the global batch's, and gradients are
            world_size times its gradients, for DDP to average: ``docs/distributed.md``.

    Returns:
        A 0-d tensor: float64 for float64 input, else float32. NaN for NaN or infinite input.
        Gradients come in the input's dtype; there is no second derivative.

    Raises:
        TypeError: x or y is not a torch tensor, or of another dtype; temperature is not a number.
        ValueError: shapes or devices differ, N < 1 or D < 1; temperature below 1e-6 or not finite;
            ranks of the group disagree.

    Example:
        >>> import torch
        >>> from sslkernels.losses import nt_xent_loss
        >>> x = torch.eye(2)
        >>> nt_xent_loss(x, x, temperature=1.0)  # log(1 + 2 / e): one positive, two negatives
        tensor(0.5514)
    """
    return nt_xent_terms(x, y, temperature, group)[0]


class NTXentLoss(torch.nn.Module):
    """The NT-Xent loss of two views as a module; arguments as :func:`nt_xent_loss`.

    Example:
        >>> import torch
        >>> from sslkernels.losses import NTXentLoss
        >>> criterion = NTXentLoss(temperature=1.0)
        >>> criterion(torch.eye(2), torch.eye(2))
        tensor(0.5514)
        >>> criterion.forward_components(torch.eye(2), torch.eye(2)).alignment
        tensor(-1.)
    """

    def __init__(self, temperature: float | Tensor = 0.5, *, group: Any = None) -> None:
        super().__init__()
        self.group = _distributed.valid_group(group)
        self.temperature = _checks.weight(temperature, "temperature", MIN_TEMPERATURE)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of two views [N, D], as :func:`nt_xent_loss`."""
        return nt_xent_terms(x, y, self.temperature, self.group)[0]

    def forward_components(self, x: Tensor, y: Tensor) -> NTXentTerms:
        """The loss and its terms, all differentiable, for the cost of the loss."""
        return NTXentTerms(*nt_xent_terms(x, y, self.temperature, self.group).unbind())

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


def nt_xent_terms(
    x: Tensor,
    y: Tensor,
    temperature: float | Tensor,
    group: Any,
    names: tuple[str, str] = ("x", "y"),
) -> Tensor:
    """[3]: loss, alignment, uniformity; errors call the views by ``names``."""
    group = _distributed.found_group(group)

    def check() -> None:
        _checks.weight(temperature, "temperature", MIN_TEMPERATURE)
        if group is not None and isinstance(temperature, Tensor):
            _checks.number(temperature.item(), "temperature", MIN_TEMPERATURE)
        _checks.pair(x, y, min_rows=1, names=names)

    if group is None:
        check()
        return _nt_xent(x, y, _as_tensor(temperature))[0]
    value: Any = temperature
    if isinstance(temperature, Tensor) and temperature.numel() == 1:
        value = temperature.item()
    batch = _distributed.agree(group, "NT-Xent", check, (x, y), (value,), min_rows=1)
    if isinstance(temperature, Tensor):
        temperature = temperature.reshape(())
    return _distributed_nt_xent(x, y, batch, temperature)


def _as_tensor(temperature: float | Tensor) -> Tensor:
    if isinstance(temperature, Tensor):
        return temperature.reshape(())
    # By a product: torch.compile makes a number that changes an input of such a graph, but compiles
    # torch.tensor(temperature) again for each.
    return torch.ones((), dtype=torch.float64, device="cpu") * temperature
