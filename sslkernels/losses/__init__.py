"""Training losses: functions and modules."""

from sslkernels.losses.barlow_twins import BarlowTwinsLoss, BarlowTwinsTerms, barlow_twins_loss
from sslkernels.losses.nt_xent import NTXentLoss, NTXentTerms, nt_xent_loss
from sslkernels.losses.sigreg import SIGReg, SIGRegTerms, sigreg_loss
from sslkernels.losses.vicreg import (
    VICRegLoss,
    VICRegTerms,
    covariance_loss,
    invariance_loss,
    variance_loss,
    vicreg_loss,
)

__all__ = [
    "BarlowTwinsLoss",
    "BarlowTwinsTerms",
    "NTXentLoss",
    "NTXentTerms",
    "SIGReg",
    "SIGRegTerms",
    "VICRegLoss",
    "VICRegTerms",
    "barlow_twins_loss",
    "covariance_loss",
    "invariance_loss",
    "nt_xent_loss",
    "sigreg_loss",
    "variance_loss",
    "vicreg_loss",
]
