"""Targets from random to semantic: what a network says of the samples at successive stages of its
supervised training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class SupervisedStages:
    """Predictions of one network along its training.

    Attributes:
        train: by stage, in optimizer steps, int64 [N]: the class it gives each training sample.
        test: the same of the test samples; empty without any.
        agreement: by stage, the share of training samples that are given their own label: how
            semantic the targets of that stage are.
    """

    train: dict[int, Tensor]
    test: dict[int, Tensor]
    agreement: dict[int, float]


def supervised_stages(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    stages: Sequence[int] = (0, 5, 20, 80, 320),
    test_inputs: Tensor | None = None,
    batch_rows: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> SupervisedStages:
    """Train a classifier, and keep what it predicts at each stage.

    Before training its predictions are those of a random function of the input, then they come to
    mean what the labels mean. Cross-entropy, Adam, batches in an order drawn by seed. A prediction
    is the class whose score is highest after each class's scores have been standardised over the
    training samples: an untrained network would else give nearly all of them one class.

    Args:
        model: a classifier, inputs [n, ...] to scores [n, C]; it is trained in place.
        inputs: [N, ...].
        labels: int64 [N] in ``[0, C)``.
        stages: numbers of optimizer steps, ascending; 0 is before training.
        test_inputs: further samples to predict.
        batch_rows: samples of a step.
        learning_rate: of Adam.
        seed: of the order of the samples; torch's global random state is left as it was.

    Raises:
        ValueError: stages do not ascend, or labels do not go with the inputs.

    Example:
        >>> import torch
        >>> from sslkernels import targets
        >>> _ = torch.manual_seed(0)
        >>> labels = torch.arange(60) % 3
        >>> found = targets.supervised_stages(
        ...     torch.nn.Linear(3, 3), torch.eye(3)[labels], labels, stages=(0, 400),
        ...     learning_rate=0.1,
        ... )
        >>> found.agreement[400]
        1.0
    """
    steps = [int(stage) for stage in stages]
    if not steps or steps[0] < 0 or any(b <= a for a, b in itertools.pairwise(steps)):
        raise ValueError(f"stages: expected ascending numbers of steps, got {list(stages)}")
    if labels.dtype != torch.int64 or labels.shape != inputs.shape[:1] or not len(labels):
        raise ValueError(
            f"labels: expected int64 [{len(inputs)}] to match inputs, got "
            f"{str(labels.dtype)[6:]} {list(labels.shape)}"
        )
    result = SupervisedStages({}, {}, {})
    order = _batches(len(inputs), min(batch_rows, len(inputs)), seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    cuda = [inputs.device] if inputs.is_cuda else []
    with torch.random.fork_rng(cuda), torch.enable_grad():
        torch.manual_seed(seed)
        for step in range(steps[-1] + 1):
            if step in steps:
                scores = _scores(model, inputs)
                mean, std = scores.mean(0), scores.std(0, unbiased=False)
                std = std.masked_fill(std == 0, 1.0)
                found = ((scores - mean) / std).argmax(1)
                result.train[step] = found
                result.agreement[step] = float((found == labels).double().mean())
                if test_inputs is not None:
                    scores = _scores(model, test_inputs)
                    result.test[step] = ((scores - mean) / std).argmax(1)
            if step == steps[-1]:
                break
            rows = next(order).to(inputs.device)
            model.train()
            loss = F.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return result


def _batches(rows: int, batch: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for part in torch.randperm(rows, generator=generator).split(batch):
            if len(part) == batch:
                yield part


def _scores(model: nn.Module, inputs: Tensor) -> Tensor:
    training = model.training
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part).double() for part in inputs.split(1024)])
    model.train(training)
    return found
