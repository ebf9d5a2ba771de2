"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, shipped in the package."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# What the strokes of a digit look like, seen from afar. Nothing in training knows of it.
SHAPES = {
    "closed loop": (0, 6, 8, 9),
    "straight strokes": (1, 4, 7),
    "open curves": (2, 3, 5),
}
PARENTS = [
    next(k for k, members in enumerate(SHAPES.values()) if digit in members) for digit in range(10)
]
TEST_ROWS = 500


@dataclass(frozen=True)
class Digits:
    """Images float32 [N, 1, 8, 8] in [0, 1]; labels int64 [2, N]: digits and random targets."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)


def load(seed: int, device: torch.device) -> tuple[Digits, Digits]:
    """A random split into train and test, and a random class of ten for every image."""
    from sklearn.datasets import load_digits  # slow to import

    data = load_digits()
    generator = torch.Generator().manual_seed(seed)
    images = torch.as_tensor(data.images, dtype=torch.float32).div(16).unsqueeze(1)
    digits = torch.as_tensor(data.target, dtype=torch.int64)
    chance = torch.randint(10, digits.shape, generator=generator)
    labels = torch.stack([digits, chance])
    order = torch.randperm(len(images), generator=generator)

    def part(rows: torch.Tensor) -> Digits:
        return Digits(images[rows].to(device), labels[:, rows].to(device))

    return part(order[TEST_ROWS:]), part(order[:TEST_ROWS])
