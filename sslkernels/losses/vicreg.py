"""VICReg: variance-invariance-covariance regularization.

Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
Learning" (ICLR 2022, arXiv 2105.04906). For two views x and y of N rows and D columns, with C(z)
the covariance matrix of z (unbiased, over N-1) and v_j its diagonal,

    invariance = mean over rows and columns of (x - y)^2
    variance   = mean over both views and their columns of max(0, gamma - sqrt(v_j + eps))
    covariance = sum over both views of sum_{i != j} C_ij^2 / D
    loss       = sim_coeff * invariance + std_coeff * variance + cov_coeff * covariance

as in the authors' code: half the sum of the two variance terms, the full sum of the covariances.
How it is computed without the D x D matrix: ``sslkernels/passes/vicreg.py``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels._checks import FLOAT_DTYPES
from sslkernels.distributed import batch as _distributed
from sslkernels.distributed.vicreg import vicreg as _distributed_vicreg
from sslkernels.losses import _checks
from sslkernels.passes.vicreg import VICRegSettings
from sslkernels.passes.vicreg import vicreg as _vicreg

_LOSS, _INVARIANCE, _VARIANCE, _COVARIANCE = range(4)


class VICRegTerms(NamedTuple):
    """The loss and its unweighted terms: differentiable 0-d tensors."""

    loss: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg_loss(
    x: Tensor,
    y: Tensor,
    *,
    sim_coeff: float | Tensor = 25.0,
    std_coeff: float | Tensor = 25.0,
    cov_coeff: float | Tensor = 1.0,
    gamma: float = 1.0,
    eps: float = 1e-4,
    group: Any = None,
) -> Tensor:
    """The VICReg loss of two views.

    Computed in float32 (float64 for float64 input) whatever the input, inside autocast too. Memory
    beyond the gradients: about min(N, D)^2 per view, kept for backward, and a working copy of both
    views.

    Args:
        x: embeddings of the first view, [N, D] or [N, ..., D]; float16, bfloat16, float32 or
            float64; any strides. Each position of the middle dimensions is a problem of its own,
            and the loss is their mean.
        y: the second view: x's shape, dtype and device.
        sim_coeff: weight of the invariance term; a tensor of one number gets its gradient, and so
            for the other weights.
        std_coeff: weight of the variance term.
        cov_coeff: weight of the covariance term.
        gamma: standard deviation below which the variance term acts.
        eps: added to variances before the square root.
        group: the ranks whose rows are one batch: "world", a ``torch.distributed`` process group,
            or None, this process alone. The value is the global batch's, and gradients are
            world_size times its gradients, for DDP to average: ``docs/distributed.md``.

    Returns:
        A 0-d tensor: float64 for float64 input, else float32. NaN for NaN input. Gradients come in
        the input's dtype. Second derivatives (create_graph=True) are in dense operations of torch:
        several times a backward pass's time and memory. With a group there are none.

    Raises:
        TypeError: x or y is not a torch tensor, or of another dtype; an option is not a number.
        ValueError: shapes or devices differ, N < 2 or D < 1; an option is not finite; ranks of the
            group disagree.

    Example:
        >>> import torch
        >>> from sslkernels.losses import vicreg_loss
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
        >>> vicreg_loss(x, x + 1, sim_coeff=1.0)  # invariance 1, variance 0, covariance 4 + 4
        tensor(9.)
    """
    settings = VICRegSettings(sim_coeff, std_coeff, cov_coeff, gamma, eps)
    return vicreg_terms(x, y, settings, group)[_LOSS]


def invariance_loss(x: Tensor, y: Tensor) -> Tensor:
    """VICReg's invariance term: the mean of (x - y)^2.

    Args:
        x: [N, D] or [N, ..., D] with N >= 1; float16, bfloat16, float32 or float64; any strides.
        y: x's shape, dtype and device.

    Returns:
        A 0-d tensor: float64 for float64 input, else float32.

    Raises:
        TypeError: x or y is not a torch tensor, or of another dtype.
        ValueError: shapes or devices differ, N < 1 or D < 1.

    Example:
        >>> import torch
        >>> from sslkernels.losses import invariance_loss
        >>> invariance_loss(torch.zeros(2, 3), torch.full((2, 3), 2.0))
        tensor(4.)
    """
    _check_pair(x, y, min_rows=1)
    return _terms(x, y, VICRegSettings(variance=False, covariance=False))[_INVARIANCE]


def variance_loss(z: Tensor, *, gamma: float = 1.0, eps: float = 1e-4) -> Tensor:
    """VICReg's variance term of one view: the mean over columns of max(0, gamma - sqrt(v_j + eps)).

    Args:
        z: [N, D] or [N, ..., D] with N >= 2; float16, bfloat16, float32 or float64; any strides.
        gamma: standard deviation below which a column counts.
        eps: added to variances before the square root.

    Returns:
        A 0-d tensor: float64 for float64 input, else float32.

    Raises:
        TypeError: z is not a torch tensor, or of another dtype.
        ValueError: N < 2 or D < 1.

    Example:
        >>> import torch
        >>> from sslkernels.losses import variance_loss
        >>> variance_loss(torch.tensor([[0.0, 5.0], [2.0, 5.0]]), eps=0.0)  # deviations 1.41 and 0
        tensor(0.5000)
    """
    _check_view(z, "z", min_rows=2)
    _checks.number(gamma, "gamma")
    _checks.number(eps, "eps")
    settings = VICRegSettings(gamma=gamma, eps=eps, invariance=False, covariance=False)
    return _terms(z, None, settings)[_VARIANCE]


def covariance_loss(z: Tensor) -> Tensor:
    """VICReg's covariance term of one view: sum_{i != j} C_ij^2 / D, C the covariance matrix of z.

    Args:
        z: [N, D] or [N, ..., D] with N >= 2; float16, bfloat16, float32 or float64; any strides.

    Returns:
        A 0-d tensor: float64 for float64 input, else float32.

    Raises:
        TypeError: z is not a torch tensor, or of another dtype.
        ValueError: N < 2 or D < 1.

    Example:
        >>> import torch
        >>> from sslkernels.losses import covariance_loss
        >>> covariance_loss(torch.tensor([[0.0, 0.0], [2.0, 2.0]]))  # C is 2 everywhere
        tensor(4.)
    """
    _check_view(z, "z", min_rows=2)
    return _terms(z, None, VICRegSettings(invariance=False, variance=False))[_COVARIANCE]


class VICRegLoss(torch.nn.Module):
    """The VICReg loss of two views as a module; arguments as :func:`vicreg_loss`.

    Example:
        >>> import torch
        >>> from sslkernels.losses import VICRegLoss
        >>> criterion = VICRegLoss(sim_coeff=1.0)
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
        >>> criterion(x, x + 1)
        tensor(9.)
        >>> criterion.forward_components(x, x + 1).covariance
        tensor(8.)
    """

    def __init__(
        self,
        *,
        sim_coeff: float | Tensor = 25.0,
        std_coeff: float | Tensor = 25.0,
        cov_coeff: float | Tensor = 1.0,
        gamma: float = 1.0,
        eps: float = 1e-4,
        group: Any = None,
    ) -> None:
        super().__init__()
        self.group = _distributed.valid_group(group)
        self.sim_coeff = sim_coeff
        self.std_coeff = std_coeff
        self.cov_coeff = cov_coeff
        self.gamma = gamma
        self.eps = eps

    def _all_terms(self, x: Tensor, y: Tensor) -> Tensor:
        options = (self.sim_coeff, self.std_coeff, self.cov_coeff, self.gamma, self.eps)
        return vicreg_terms(x, y, VICRegSettings(*options), self.group)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of two views [N, D] or [N, ..., D], as :func:`vicreg_loss`."""
        return self._all_terms(x, y)[_LOSS]

    def forward_components(self, x: Tensor, y: Tensor) -> VICRegTerms:
        """The loss and its unweighted terms, all differentiable, for the cost of the loss."""
        return VICRegTerms(*self._all_terms(x, y).unbind())

    def extra_repr(self) -> str:
        names = ("sim_coeff", "std_coeff", "cov_coeff", "gamma", "eps")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def vicreg_terms(
    x: Tensor,
    y: Tensor,
    settings: VICRegSettings,
    group: Any,
    names: tuple[str, str] = ("x", "y"),
) -> Tensor:
    """[4]: loss, invariance, variance, covariance; errors call the views by ``names``."""
    weights = settings[:3]
    group = _distributed.found_group(group)

    def check(min_rows: int) -> None:
        for weight, name in zip(weights, ("sim_coeff", "std_coeff", "cov_coeff"), strict=True):
            _checks.weight(weight, name)
        _checks.number(settings.gamma, "gamma")
        _checks.number(settings.eps, "eps")
        _check_pair(x, y, min_rows=min_rows, names=names)

    if group is None:
        check(2)
        terms_of = partial(_terms, x, y)
    else:
        options = tuple(map(_checks.agreed, settings))
        batch = _distributed.agree(group, "VICReg", partial(check, 1), (x, y), options, min_rows=2)
        terms_of = partial(_distributed_vicreg, x, y, batch)
    if torch.compiler.is_compiling() or any(isinstance(weight, Tensor) for weight in weights):
        _, *terms = terms_of(settings._replace(sim=0.0, std=0.0, cov=0.0)).unbind()
        sim, std, cov = map(_checks.times, weights, terms)
        return torch.stack((sim + std + cov, *terms))
    return terms_of(settings)


def _terms(x: Tensor, y: Tensor | None, settings: VICRegSettings) -> Tensor:
    return _vicreg(x, y, *settings)[0]


def _check_view(z: Any, name: str, min_rows: int) -> None:
    if not isinstance(z, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, got {type(z).__name__}")
    if z.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{name}: expected float16, bfloat16, float32 or float64, got {str(z.dtype)[6:]}"
        )
    if z.ndim < 2:
        raise ValueError(f"{name}: expected shape [N, D] or [N, ..., D], got {list(z.shape)}")
    if z.shape[0] < min_rows:
        rows = "one row" if min_rows == 1 else f"{min_rows} rows"
        raise ValueError(f"{name}: needs at least {rows}, got shape {list(z.shape)}")
    if 0 in z.shape:
        raise ValueError(f"{name}: expected no dimension of size 0, got shape {list(z.shape)}")


_check_pair = partial(_checks.pair, view=_check_view)
