"""The demo's training: VICReg without labels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

import sslkernels as ssk
from sslkernels.study.network import Encoder, two_views

BATCH = 256
LEARNING_RATE = 2e-3
TERMS = ("loss", "invariance", "variance", "covariance")


@torch.no_grad()
def calibrate(model: Encoder, images: torch.Tensor, seed: int) -> None:
    """Give untrained batch norms the statistics of the data, so that "before" is a fair start."""
    model.train()
    generator = torch.Generator(images.device).manual_seed(seed)
    for _ in range(4):
        for part in images.split(BATCH):
            model(two_views(part, generator))


@torch.no_grad()
def features(model: Encoder, images: torch.Tensor) -> torch.Tensor:
    """The representation [N, FEATURES] of unchanged images."""
    model.eval()
    return model.backbone(images)


@torch.no_grad()
def terms(model: Encoder, images: torch.Tensor, seed: int) -> dict[str, float]:
    """The loss and its three terms on one fixed pair of views of all images at once."""
    model.eval()
    generator = torch.Generator(images.device).manual_seed(seed)
    x, y = model(two_views(images, generator)).chunk(2)
    values = ssk.VICRegLoss().forward_components(x, y)
    return {name: float(getattr(values, name)) for name in TERMS}


def train(
    model: Encoder,
    images: torch.Tensor,
    *,
    epochs: int,
    seed: int,
    on_epoch: Callable[[list[float]], None],
) -> list[list[float]]:
    """Train in place; the mean of :data:`TERMS` in every epoch, each told to ``on_epoch``."""
    model.train()
    loss = ssk.VICRegLoss()
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    total = steps * epochs

    def rate(step: int) -> float:
        """Up in a line for a tenth of the steps, down in a half cosine."""
        return min(1.0, (step + 1) / (0.1 * total)) * (1 + math.cos(math.pi * step / total)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    generator = torch.Generator(images.device).manual_seed(seed)
    history = []
    for _ in range(epochs):
        order = torch.randperm(len(images), device=images.device, generator=generator)
        sums = torch.zeros(len(TERMS), device=images.device)
        for rows in order[: steps * BATCH].split(BATCH):
            x, y = model(two_views(images[rows], generator)).chunk(2)
            values = loss.forward_components(x, y)
            optimizer.zero_grad()
            values.loss.backward()
            optimizer.step()
            schedule.step()
            sums += torch.stack([getattr(values, name).detach() for name in TERMS])
        history.append((sums / steps).tolist())
        on_epoch(history[-1])
    return history
