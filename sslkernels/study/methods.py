"""The losses that a study compares, each split into what pulls two views together and what
regularizes, both weighted as they enter the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import sslkernels as ssk

_SIM, _STD, _COV = 25.0, 25.0, 1.0  # VICReg's own weights
_SIGREG = 0.05  # LeJEPA's share of SIGReg


class Split(NamedTuple):
    """``loss = invariance + regularization``."""

    loss: Tensor
    invariance: Tensor
    regularization: Tensor


Method = Callable[[Tensor, Tensor, int], Split]  # two views' embeddings, the step


def _vicreg(x: Tensor, y: Tensor, sim: float, std: float, cov: float) -> Split:
    terms = ssk.VICRegLoss(sim_coeff=sim, std_coeff=std, cov_coeff=cov).forward_components(x, y)
    invariance = sim * terms.invariance
    return Split(terms.loss, invariance, std * terms.variance + cov * terms.covariance)


def vicreg(x: Tensor, y: Tensor, step: int) -> Split:
    return _vicreg(x, y, _SIM, _STD, _COV)


def invariance_only(x: Tensor, y: Tensor, step: int) -> Split:
    return _vicreg(x, y, _SIM, 0.0, 0.0)


def regularization_only(x: Tensor, y: Tensor, step: int) -> Split:
    return _vicreg(x, y, 0.0, _STD, _COV)


def simclr(x: Tensor, y: Tensor, step: int) -> Split:
    """NT-Xent: alignment of the pairs, log-sum-exp against all others."""
    terms = ssk.NTXentLoss(temperature=0.2).forward_components(x, y)
    return Split(terms.loss, terms.alignment, terms.uniformity)


def barlow_twins(x: Tensor, y: Tensor, step: int) -> Split:
    """The diagonal of the cross-correlation, and what lies off it."""
    terms = ssk.BarlowTwinsLoss().forward_components(x, y)
    return Split(terms.loss, terms.on_diagonal, terms.loss - terms.on_diagonal)


def sigreg(x: Tensor, y: Tensor, step: int) -> Split:
    """LeJEPA's: views pulled to each other, each of them to an isotropic Gaussian."""
    invariance = (1 - _SIGREG) * F.mse_loss(x, y)
    both = ssk.sigreg_loss(x, step=step) + ssk.sigreg_loss(y, step=step)
    regularization = _SIGREG * both / 2
    return Split(invariance + regularization, invariance, regularization)


def supervised(scores: Tensor, labels: Tensor) -> Split:
    """Cross-entropy; all of it tells classes apart, none of it pulls two views together."""
    loss = F.cross_entropy(scores, labels)
    return Split(loss, torch.zeros_like(loss), loss)


METHODS: dict[str, Method | None] = {
    "vicreg": vicreg,
    "simclr": simclr,
    "barlow-twins": barlow_twins,
    "sigreg": sigreg,
    "supervised": None,  # of labels, not of two views
    "invariance-only": invariance_only,
    "regularization-only": regularization_only,
}
ABLATIONS = ("invariance-only", "regularization-only")
NAMES = {
    "vicreg": "VICReg",
    "simclr": "SimCLR",
    "barlow-twins": "Barlow Twins",
    "sigreg": "SIGReg",
    "supervised": "supervised",
    "invariance-only": "invariance only",
    "regularization-only": "regularization only",
}
