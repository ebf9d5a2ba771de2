"""Every drop-in: what its original takes, and how both are called on two views.

Signatures are the originals', without annotations; those that can be installed are compared with
them too. solo-learn's and the authors' losses are written out from their definitions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.compat import lightly, metric_learning, official, solo
from tests.compat.test_official import authors_terms
from tests.compat.test_solo import solo_barlow, solo_simclr, solo_vicreg


class DropIn(NamedTuple):
    ours: Any
    signature: str  # of the function, or of the class
    weights: dict[str, float]  # arguments that may be tensors with gradients
    refused: tuple[str, ...] = ()  # numbers that may not
    forward: str = ""  # signature of the class's
    options: Mapping[str, Any] = MappingProxyType({})  # others that are given
    arguments: Callable[[Tensor, Tensor], dict[str, Any]] | None = None  # by name, of two views
    formula: Callable[..., Tensor] | None = None  # in place of an original, of its arguments
    whole: bool = True  # whether torch.compile makes one graph of it, and torch.func takes it

    @property
    def is_class(self) -> bool:
        return isinstance(self.ours, type)

    def construct(self, loss: type, options: dict[str, Any]) -> Any:
        """The module; a memory bank in float64, which lightly's has to be for float64 views."""
        if "memory_bank_size" not in self.options:
            return loss(**self.options, **options)
        torch.manual_seed(0)
        module = loss(**self.options, **options)
        module.memory_bank.double()
        return module

    def build(self, loss: Any, options: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss as a function of two views; ``loss`` is ours, the original or the formula."""
        if isinstance(loss, type):
            return self.of_views(self.construct(loss, options))
        return self.of_views(functools.partial(loss, **self.options, **options))

    def of_views(self, loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def of_views(x: Tensor, y: Tensor) -> Tensor:
            return loss(x, y) if self.arguments is None else loss(**self.arguments(x, y))

        return of_views


def _official(
    x: Tensor,
    y: Tensor,
    batch_size: int = 2048,
    sim_coeff: Any = 25.0,
    std_coeff: Any = 25.0,
    cov_coeff: Any = 1.0,
) -> Tensor:
    terms = authors_terms(x, y, batch_size)
    return sim_coeff * terms[0] + std_coeff * terms[1] + cov_coeff * terms[2]


def _solo_vicreg(z1: Tensor, z2: Tensor, **weights: Any) -> Tensor:
    return solo_vicreg(z1, z2, *weights.values())


def _solo_barlow(z1: Tensor, z2: Tensor, **weights: Any) -> Tensor:
    return solo_barlow(z1, z2, *weights.values())


def _views(x: Tensor, y: Tensor) -> dict[str, Any]:
    rows = torch.arange(x.shape[0], device=x.device)
    return {"z": torch.cat((x, y)), "indexes": rows.repeat(2)}


def _labels(x: Tensor, y: Tensor) -> dict[str, Any]:
    rows = torch.arange(x.shape[0], device=x.device) // 3
    return {"z": torch.cat((x, y)), "indexes": rows.repeat(2)}


_NT_XENT = DropIn(
    lightly.NTXentLoss,
    "(temperature=0.5, memory_bank_size=0, gather_distributed=False)",
    weights={"temperature": 0.3},
    forward="(self, out0, out1)",
)
_SIMCLR = DropIn(
    solo.simclr_loss_func,
    "(z, indexes, temperature=0.1)",
    weights={"temperature": 0.3},
    arguments=_views,
    formula=solo_simclr,
)

TABLE = {
    "lightly.VICRegLoss": DropIn(
        lightly.VICRegLoss,
        "(lambda_param=25.0, mu_param=25.0, nu_param=1.0, gather_distributed=False, eps=0.0001)",
        weights={"lambda_param": 3.0, "mu_param": 7.0, "nu_param": 0.5},
        refused=("eps",),
        forward="(self, z_a, z_b)",
    ),
    "lightly.BarlowTwinsLoss": DropIn(
        lightly.BarlowTwinsLoss,
        "(lambda_param=0.005, gather_distributed=False)",
        weights={"lambda_param": 0.3},
        forward="(self, z_a, z_b)",
    ),
    "lightly.NTXentLoss": _NT_XENT,
    "lightly.NTXentLoss, repelling": _NT_XENT._replace(weights={"temperature": -0.3}),
    "lightly.NTXentLoss, memory bank": _NT_XENT._replace(
        options={"memory_bank_size": (32, 20)}, whole=False
    ),
    "solo.vicreg_loss_func": DropIn(
        solo.vicreg_loss_func,
        "(z1, z2, sim_loss_weight=25.0, var_loss_weight=25.0, cov_loss_weight=1.0)",
        weights={"sim_loss_weight": 3.0, "var_loss_weight": 7.0, "cov_loss_weight": 0.5},
        formula=_solo_vicreg,
    ),
    "solo.barlow_loss_func": DropIn(
        solo.barlow_loss_func,
        "(z1, z2, lamb=0.005, scale_loss=0.025)",
        weights={"lamb": 0.3, "scale_loss": 2.0},
        formula=_solo_barlow,
    ),
    "solo.simclr_loss_func": _SIMCLR,
    "solo.simclr_loss_func, labels": _SIMCLR._replace(arguments=_labels),
    "official.VICReg": DropIn(
        official.VICReg,
        "(batch_size=2048, sim_coeff=25.0, std_coeff=25.0, cov_coeff=1.0)",
        weights={"sim_coeff": 3.0, "std_coeff": 7.0, "cov_coeff": 0.5},
        forward="(self, x, y)",
        options={"batch_size": 16},
        formula=_official,
    ),
    "metric_learning.VICRegLoss": DropIn(
        metric_learning.VICRegLoss,
        "(invariance_lambda=25, variance_mu=25, covariance_v=1, eps=0.0001, **kwargs)",
        weights={"invariance_lambda": 3.0, "variance_mu": 7.0, "covariance_v": 0.5},
        refused=("eps",),
        forward="(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, "
        "ref_labels=None)",
        arguments=lambda x, y: {"embeddings": x, "ref_emb": y},
    ),
}
