"""SIGReg, sketched isotropic Gaussian regularization of LeJEPA.

Balestriero and LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the
Heuristics" (arXiv 2511.08544). Embeddings z_n are projected on random unit slices a_m, and each
projection is compared with the standard normal distribution by the Epps-Pulley statistic: with
knots t_k,

    C_mk = mean_n cos(t_k a_m . z_n),   S_mk = mean_n sin(t_k a_m . z_n),
    loss = N * mean_m sum_k w_k ((C_mk - exp(-t_k^2 / 2))^2 + S_mk^2),

where w_k is exp(-t_k^2 / 2) times the trapezoid rule's weight, counted twice for the negative half
of the axis: 2 dt, and dt at both ends. ``real`` and ``imaginary`` are the parts of the sum that C
and S
give: the second is 0 for a distribution symmetric about 0. How it is computed, and how slices are
drawn: ``sslkernels/passes/sigreg.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels._checks import positive_int
from sslkernels.distributed import batch as _distributed
from sslkernels.distributed.sigreg import total_sums
from sslkernels.losses import _checks
from sslkernels.numerics.views import result_dtype
from sslkernels.passes.sigreg import SIGRegSettings
from sslkernels.passes.sigreg import sigreg as _sums


class SIGRegTerms(NamedTuple):
    """The loss and the terms it is the sum of: differentiable 0-d tensors."""

    loss: Tensor
    real: Tensor
    imaginary: Tensor


def sigreg_loss(
    z: Tensor,
    *,
    num_slices: int = 1024,
    num_knots: int = 17,
    t_min: float = 0.0,
    t_max: float = 3.0,
    scale_by_n: bool = True,
    seed: int = 0,
    step: int | Tensor = 0,
    group: Any = None,
) -> Tensor:
    """The SIGReg loss of one view; of several views, take the mean over calls with the same step.

    Computed in float32 (float64 for float64 input) whatever the input, inside autocast too. Memory
    beyond the gradient: about z and the slices, num_slices x D. The slices depend on (seed, step,
    num_slices, D) alone: on every device, backend, dtype and rank they are the same up to rounding.

    Args:
        z: embeddings [N, D], N >= 1; float16, bfloat16, float32 or float64; any strides.
        num_slices: how many random directions.
        num_knots: how many values of t, equally spaced from t_min to t_max, ends included; at least
            2.
        t_min: first knot. The authors use 0; some users 0.2.
        t_max: last knot, above t_min.
        scale_by_n: the factor N of the statistic, as the authors have it; False leaves it out.
        seed: picks the sequence of slices; 0 <= seed < 2^63.
        step: picks the slices within the sequence, 0 <= step < 2^63: count it up at each training
            step. An int, or an int64 tensor of no dimension (on z's device a GPU never waits for
            it).
        group: the ranks whose rows are one batch: "world", a ``torch.distributed`` process group,
            or None, this process alone. The value is the global batch's, and gradients are
            world_size times its gradients, for DDP to average: ``docs/distributed.md``.
            Ranks must give the same seed and step.

    Returns:
        A 0-d tensor: float64 for float64 input, else float32. NaN for NaN or infinite input.
        Gradients come in the input's dtype; there is no second derivative.

    Raises:
        TypeError: z is not a torch tensor, or of another dtype; an option is of another type.
        ValueError: N < 1 or D < 1; an option is out of range; ranks of the group disagree.

    Example:
        >>> import torch
        >>> from sslkernels.losses import sigreg_loss
        >>> z = torch.randn(4096, 8, generator=torch.Generator().manual_seed(0))
        >>> bool(sigreg_loss(z) < 0.05 * sigreg_loss(0.5 * z))  # standard normal, and not
        True
    """
    settings = SIGRegSettings(num_slices, num_knots, t_min, t_max, seed)
    return _terms(z, step, settings, scale_by_n, group)[0]


class SIGReg(torch.nn.Module):
    """The SIGReg loss of one view as a module; options as :func:`sigreg_loss`.

    The module counts its own steps: in training mode every call draws new slices, in evaluation
    mode calls repeat those of the current step. The count is the int64 buffer ``step``, saved in
    the state dict, so that a resumed run goes on with the slices it would have had.

    Example:
        >>> import torch
        >>> from sslkernels.losses import SIGReg, sigreg_loss
        >>> criterion = SIGReg(num_slices=64, seed=1)
        >>> z = torch.randn(32, 8)
        >>> bool(criterion(z) == sigreg_loss(z, num_slices=64, seed=1, step=0))
        True
        >>> int(criterion.state_dict()["step"])
        1
    """

    step: Tensor

    def __init__(
        self,
        *,
        num_slices: int = 1024,
        num_knots: int = 17,
        t_min: float = 0.0,
        t_max: float = 3.0,
        scale_by_n: bool = True,
        seed: int = 0,
        group: Any = None,
    ) -> None:
        super().__init__()
        self.group = _distributed.valid_group(group)
        self.num_slices, self.num_knots, self.t_min, self.t_max, self.seed = _checked(
            num_slices, num_knots, t_min, t_max, seed
        )
        self.scale_by_n = scale_by_n
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def _all_terms(self, z: Tensor) -> Tensor:
        step = self.step.clone()  # the backward pass draws the same slices again
        options = (self.num_slices, self.num_knots, self.t_min, self.t_max, self.seed)
        terms = _terms(z, step, SIGRegSettings(*options), self.scale_by_n, self.group)
        if self.training:
            self.step.add_(1)
        return terms

    def forward(self, z: Tensor) -> Tensor:
        """The loss of embeddings [N, D], as :func:`sigreg_loss`."""
        return self._all_terms(z)[0]

    def forward_components(self, z: Tensor) -> SIGRegTerms:
        """The loss and its terms, all differentiable, for the cost of the loss."""
        return SIGRegTerms(*self._all_terms(z).unbind())

    def extra_repr(self) -> str:
        names = ("num_slices", "num_knots", "t_min", "t_max", "scale_by_n", "seed")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def _checked(
    num_slices: int, num_knots: int, t_min: float, t_max: float, seed: int
) -> SIGRegSettings:
    if positive_int(num_knots, "num_knots") < 2:
        raise ValueError(f"num_knots: needs at least 2 knots, got {num_knots}")
    t_min, t_max = _checks.number(t_min, "t_min"), _checks.number(t_max, "t_max")
    if t_max <= t_min:
        raise ValueError(f"t_max: expected a number above t_min = {t_min:g}, got {t_max:g}")
    _position(seed, "seed")
    return SIGRegSettings(positive_int(num_slices, "num_slices"), num_knots, t_min, t_max, seed)


def _position(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if not 0 <= value < 2**63:
        raise ValueError(f"{name}: expected an int in [0, 2^63), got {value}")


def _as_tensor(step: int | Tensor) -> Tensor:
    if isinstance(step, Tensor):
        return step
    return torch.tensor(step, dtype=torch.int64, device="cpu")


def _terms(
    z: Tensor, step: int | Tensor, settings: SIGRegSettings, scale_by_n: bool, group: Any
) -> Tensor:
    """[3]: loss, real, imaginary."""
    group = _distributed.found_group(group)

    def check() -> None:
        _checked(*settings)
        if not isinstance(step, Tensor):
            _position(step, "step")
        elif step.dtype != torch.int64 or step.ndim != 0:
            raise TypeError(
                f"step: expected an int or a 0-d int64 tensor, got {str(step.dtype)[6:]} "
                f"of shape {list(step.shape)}"
            )
        _checks.view(z, "z", min_rows=1)

    if group is None:
        check()
        sums, n = _sums(z, _as_tensor(step), *settings), z.shape[0]
    else:
        sums, n = total_sums(z, step, settings, (scale_by_n,), group, check)
    # Few operations: on a small batch their number, not their size, is what they cost.
    num_slices, num_knots, t_min, *_ = settings
    spacing = settings.spacing()
    t = t_min + spacing * torch.arange(num_knots, dtype=torch.float64, device=z.device)
    target = torch.zeros(num_knots, 2, dtype=torch.float64, device=z.device)
    target[:, 0] = torch.exp(-0.5 * t * t)
    weight = target[:, :1] * (2 * spacing * (n if scale_by_n else 1) / num_slices)
    weight[0].mul_(0.5)
    weight[-1].mul_(0.5)

    parts = ((sums / n - target).square().sum(0) * weight).sum(0)  # real, imaginary
    terms = torch.cat((parts.sum(0, keepdim=True), parts))
    return terms.to(result_dtype(z.dtype))
