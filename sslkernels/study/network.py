"""The small convolutional encoder that the demo and the study train."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from sslkernels.study.augment import augment

FEATURES = 128  # width of the representation that is measured
EXPANDED = 512  # width that the loss sees, four times wider, as VICReg's 8192 to 2048

# From the input to what the loss sees, under the names that figures use.
LAYERS = {
    "backbone.block1": "block 1",
    "backbone.block2": "block 2",
    "backbone.block3": "block 3",
    "backbone": "encoding",
    "expander": "embedding",
}


class Encoder(nn.Module):
    """``backbone``: images [N, 1, 8, 8] to [N, FEATURES]; ``expander``: on to [N, EXPANDED]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            OrderedDict(
                block1=_block(1, 32, 1),
                block2=_block(32, 64, 2),
                block3=_block(64, 64, 1),
                flatten=nn.Flatten(),
                features=nn.Sequential(
                    nn.Linear(64 * 4 * 4, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU()
                ),
            )
        )
        self.expander = nn.Sequential(
            nn.Linear(FEATURES, EXPANDED),
            nn.BatchNorm1d(EXPANDED),
            nn.ReLU(),
            nn.Linear(EXPANDED, EXPANDED),
            nn.BatchNorm1d(EXPANDED),
            nn.ReLU(),
            nn.Linear(EXPANDED, EXPANDED),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.expander(self.backbone(images))


class Classifier(nn.Module):
    """An encoder of the same shape with a linear classifier on its embedding."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Linear(EXPANDED, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(images).relu())


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def build(seed: int, device: torch.device) -> Encoder:
    """Fresh weights that depend on the seed alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder().to(device)


def two_views(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Two views of every image, [2N, 1, 8, 8]: all the first ones, then all the second ones."""
    return torch.cat([augment(images, generator), augment(images, generator)])
