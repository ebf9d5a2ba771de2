"""The loss of the authors' VICReg code, facebookresearch/vicreg, under its flags' names.

``main_vicreg.py`` computes the loss inside ``VICReg.forward``, on the outputs of backbone and
projector. There, replace everything after the projector by a call of this module:

    self.loss = sslkernels.compat.official.VICReg.from_args(args)   # in __init__
    return self.loss(x, y)                                          # in forward

The covariance is divided by the NOMINAL batch size less one, ``--batch-size``, and not by the
number of rows: a last batch with fewer rows weighs less. The batches of all ranks are gathered
wherever torch.distributed is initialised.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.compat._shared import every_rank, matrix, vicreg_of_ranks
from sslkernels.losses import VICRegTerms
from sslkernels.losses.vicreg import vicreg_terms
from sslkernels.passes.vicreg import VICRegSettings


class VICReg(torch.nn.Module):
    """The authors' VICReg loss of two views of projected features.

    Args:
        batch_size: the nominal batch size over all ranks, ``--batch-size``; at least 2.
        sim_coeff: weight of the invariance term, ``--sim-coeff``; a tensor of one number gets its
            gradient, and so for the other weights.
        std_coeff: weight of the variance term, ``--std-coeff``: the mean of the two views.
        cov_coeff: weight of the covariance term, ``--cov-coeff``: the sum over the two views.

    Example:
        >>> import torch
        >>> from sslkernels.compat.official import VICReg
        >>> z = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
        >>> VICReg(batch_size=2, sim_coeff=1.0)(z, z + 1)
        tensor(9.)
        >>> VICReg(batch_size=3).forward_components(z, z).covariance  # half the covariance matrix
        tensor(2.)
    """

    def __init__(
        self,
        batch_size: int = 2048,
        sim_coeff: float | Tensor = 25.0,
        std_coeff: float | Tensor = 25.0,
        cov_coeff: float | Tensor = 1.0,
    ) -> None:
        super().__init__()
        if batch_size < 2:
            raise ValueError(f"batch_size: expected at least 2, got {batch_size}")
        self.batch_size = batch_size
        self.sim_coeff = sim_coeff
        self.std_coeff = std_coeff
        self.cov_coeff = cov_coeff

    @classmethod
    def from_args(cls, args: Any) -> VICReg:
        """From the namespace that the authors' argument parser returns."""
        return cls(args.batch_size, args.sim_coeff, args.std_coeff, args.cov_coeff)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of two views [N, D]."""
        return self.forward_components(x, y).loss

    def forward_components(self, x: Tensor, y: Tensor) -> VICRegTerms:
        """The loss and its unweighted terms: ``repr_loss``, ``std_loss`` and ``cov_loss``."""
        group = every_rank()
        if group is not None:
            weights = {n: getattr(self, n) for n in ("sim_coeff", "std_coeff", "cov_coeff")}
            return VICRegTerms(
                *vicreg_of_ranks(x, y, weights, group, ("x", "y"), nominal=self.batch_size)
            )
        matrix(x, "x")
        rows: int | Tensor = x.shape[0]
        if isinstance(rows, Tensor) or torch.compiler.is_compiling():
            rows = x.new_ones((), dtype=torch.float64) * rows  # in a graph, for other rows too
        nominal = ((rows - 1) / (self.batch_size - 1)) ** 2
        settings = VICRegSettings(self.sim_coeff, self.std_coeff, self.cov_coeff * nominal)
        terms = VICRegTerms(*vicreg_terms(x, y, settings, None).unbind())
        return terms._replace(covariance=terms.covariance * nominal)

    def extra_repr(self) -> str:
        names = ("batch_size", "sim_coeff", "std_coeff", "cov_coeff")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
