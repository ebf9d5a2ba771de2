"""Train an encoder of handwritten digits by VICReg, with one import changed.

    python examples/train_digits.py                     # all three losses, step by step in turn
    python examples/train_digits.py --loss sslkernels   # one of official, lightly, sslkernels
    python examples/train_digits.py --figure curves.png

Same seed, same views: the curves lie on each other. They start one float32 rounding apart, and
training amplifies roundings: how far lightly's curve strays from the official formula's shows how
much. The time of a step is everything from views to optimizer; "loss" is its forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import torch
from common import LABELS, LOSSES, criterion, digits, encoder, view

import sslkernels as ssk


@dataclass
class Run:
    """One training: a model of its own, and views drawn from the same seed as any other's."""

    name: str
    images: torch.Tensor
    width: int
    batch: int
    seed: int
    losses: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)  # seconds
    loss_times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = encoder(self.width, self.seed)
        self.loss = criterion(self.name)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.generator = torch.Generator().manual_seed(self.seed)

    def step(self) -> None:
        start = time.perf_counter()
        rows = torch.randperm(len(self.images), generator=self.generator)[: self.batch]
        x, y = (self.model(view(self.images[rows], self.generator)) for _ in range(2))

        # The loss by itself, to take its time: as loss(x, y).backward() all the same.
        leaves = [z.detach().requires_grad_() for z in (x, y)]
        begin = time.perf_counter()
        value = self.loss(*leaves)
        value.backward()
        self.loss_times.append(time.perf_counter() - begin)

        self.optimizer.zero_grad()
        torch.autograd.backward((x, y), [z.grad for z in leaves])
        self.optimizer.step()
        self.steps.append(time.perf_counter() - start)
        self.losses.append(value.item())

    @torch.no_grad()
    def accuracy(self, labels: torch.Tensor) -> float:
        """Of the nearest class center on the backbone, two thirds of the digits for training."""
        features = self.model[0](self.images)
        train, test = slice(0, 1200), slice(1200, None)
        centers = ssk.class_moments(features[train], labels[train], 10)
        return ssk.ncc_accuracy(features[test], labels[test], centers)


def difference(run: Run, base: Run) -> list[float]:
    """Of the loss at every step, relative."""
    return [abs(a - b) / abs(b) for a, b in zip(run.losses, base.losses, strict=True)]


def milliseconds(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds)


def table(runs: list[Run], labels: torch.Tensor) -> None:
    print("loss              first    last   accuracy  ms/step  ms/loss  largest difference")
    for run in runs:
        print(
            f"{LABELS[run.name]:16} {run.losses[0]:6.2f}  {run.losses[-1]:6.2f}   "
            f"{run.accuracy(labels):7.1%} {milliseconds(run.steps):8.1f} "
            f"{milliseconds(run.loss_times):8.1f}  {max(difference(run, runs[0])):.1e}"
        )


def figure(runs: list[Run], path: Path) -> None:
    from sslkernels.report import style

    looks = {
        "official": {"color": style.SKY, "linewidth": 6},
        "lightly": {"color": style.ORANGE, "linewidth": 3},
        "sslkernels": {"color": style.BLACK, "linewidth": 1},
    }
    with style.styled():
        page = style.blank(10, 3.6)
        curves, gap, bars = page.subplots(1, 3, width_ratios=[5, 4, 4])
        for run in runs:
            curves.plot(run.losses, label=LABELS[run.name], **looks[run.name])
        curves.set(title="VICReg loss", xlabel="step")
        curves.legend()
        for run in runs[1:]:
            largest = list(accumulate(difference(run, runs[0]), max))
            gap.semilogy(largest, color=looks[run.name]["color"], label=LABELS[run.name])
        rounding = torch.finfo(torch.float32).eps
        gap.axhline(rounding, color=style.GREY, linestyle=":", label="one float32 rounding")
        gap.set(title="largest difference so far", xlabel="step", ylim=(1e-8, 1))
        gap.set(ylabel=f"relative to the {LABELS[runs[0].name]}")
        gap.legend()
        times = [milliseconds(run.loss_times) for run in runs]
        rest = [milliseconds(run.steps) - t for run, t in zip(runs, times, strict=True)]
        names = [LABELS[run.name].replace(" ", "\n") for run in runs]
        bars.bar(names, times, color=style.BLUE, label="loss, forward and backward")
        bars.bar(names, rest, bottom=times, color=style.GREY, label="the rest")
        bars.set(
            title="milliseconds per step",
            ylim=(0, 1.3 * max(map(sum, zip(times, rest, strict=True)))),
        )
        bars.legend(fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        page.savefig(path, dpi=140)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=[*LOSSES, "all"], default="all")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=2048, help="dimensions that the loss sees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="draw the curves to this file")
    args = parser.parse_args()

    images, labels = digits()
    names = LOSSES if args.loss == "all" else (args.loss,)
    runs = [Run(name, images, args.width, args.batch, args.seed) for name in names]
    for _ in range(args.steps):
        for run in runs:
            run.step()
    table(runs, labels)
    if args.figure:
        figure(runs, args.figure)


if __name__ == "__main__":
    main()
