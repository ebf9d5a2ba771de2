"""What the examples share: digits, two views of them, an encoder, and the choice of a loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

LOSSES = ("official", "lightly", "sslkernels")
LABELS = {
    "official": "official formula",
    "lightly": "lightly",
    "sslkernels": "sslkernels",
}


def criterion(name: str, *, gather_distributed: bool = False) -> nn.Module:
    """VICReg's loss by the one import that differs."""
    if name == "sslkernels":
        from sslkernels.compat.lightly import VICRegLoss

        return VICRegLoss(gather_distributed=gather_distributed)
    if name == "lightly":
        # The same as `from lightly.loss import VICRegLoss`, where torchvision is not installed.
        import lightly_losses

        return lightly_losses.load().VICRegLoss(gather_distributed=gather_distributed)
    return OfficialFormula(gather_distributed=gather_distributed)


class OfficialFormula(nn.Module):
    """VICReg as its authors compute it, in one process."""

    def __init__(self, *, gather_distributed: bool = False) -> None:
        super().__init__()
        if gather_distributed:
            raise NotImplementedError("gather_distributed: take lightly's loss for several ranks")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        n, d = x.shape
        loss = 25 * F.mse_loss(x, y)
        for z in (x, y):
            z = z - z.mean(0)
            hinge = F.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean()
            covariance = z.T @ z / (n - 1)
            # Everything but the diagonal, as a view: the authors' trick.
            off_diagonal = covariance.flatten()[:-1].view(d - 1, d + 1)[:, 1:]
            loss = loss + 25 * hinge / 2 + off_diagonal.pow(2).sum() / d
        return loss


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits: images [N, 1, 8, 8] in [0, 1] and labels [N]."""
    data = load_digits()
    images = torch.as_tensor(data.images, dtype=torch.float32).div(16).unsqueeze(1)
    return images, torch.as_tensor(data.target)


def view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to a pixel, with a tenth of its pixels dropped, and noise."""
    padded = F.pad(images, (1, 1, 1, 1))
    n, _, side, _ = images.shape
    down, right = torch.randint(3, (2, n, 1), generator=generator)
    steps = torch.arange(side)
    moved = padded[
        torch.arange(n)[:, None, None], 0, (down + steps)[:, :, None], right[:, None] + steps
    ]
    kept = torch.rand(moved.shape, generator=generator) > 0.1
    return (moved * kept + 0.05 * torch.randn(moved.shape, generator=generator)).unsqueeze(1)


def encoder(width: int, seed: int) -> nn.Sequential:
    """Backbone, then expander to ``width``. Layer norms: they see no other rows of the batch, so
    that several processes compute what one does."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.LayerNorm(256), nn.ReLU())
    expander = nn.Sequential(nn.Linear(256, 256), nn.LayerNorm(256), nn.ReLU())
    return nn.Sequential(backbone, expander, nn.Linear(256, width))
