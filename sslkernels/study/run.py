"""One training of a study, watched: a method from a seed, measured at some epochs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslkernels import targets
from sslkernels._files import replaced
from sslkernels.monitor import EmbeddingMonitor, records
from sslkernels.study import digits
from sslkernels.study.augment import augment
from sslkernels.study.methods import METHODS, Split, supervised
from sslkernels.study.network import LAYERS, Classifier, Encoder, two_views
from sslkernels.study.settings import StudySettings

SAMPLES, VIEWS, TEST_VIEWS = 100, 10, 4  # of the sample level: images, views of each, held out
_SAMPLE_VIEWS = 1  # added to the seed for the views that the sample level is measured on

Row = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """The images of one seed and everything that they are labelled with.

    Attributes:
        train, test: images and, by labeling, int64 labels: ``digit``, ``random`` and
            ``stage N``, the predictions of a supervised network after N steps.
        views, test_views: images with the labels ``sample``.
        agreement: by labeling, the share of training images that have their digit's label.
    """

    train: tuple[Tensor, dict[str, Tensor]]
    test: tuple[Tensor, dict[str, Tensor]]
    views: tuple[Tensor, dict[str, Tensor]]
    test_views: tuple[Tensor, dict[str, Tensor]]
    agreement: dict[str, float]

    @property
    def graded(self) -> list[str]:
        """Labelings from random to semantic."""
        stages = [name for name in self.agreement if name.startswith("stage")]
        return ["random", *stages, "digit"]


def data(settings: StudySettings, seed: int, device: torch.device) -> Data:
    """Split, targets and views of one seed."""
    on_train, on_test = digits.load(seed, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Classifier(10).to(device)
    found = targets.supervised_stages(
        judge,
        on_train.images,
        on_train.labels[0],
        stages=settings.stages,
        test_inputs=on_test.images,
        seed=seed,
    )
    count = len(on_train) + len(on_test)
    chance = targets.random_labels(count, 10, seed=seed).to(device)
    train = {"digit": on_train.labels[0], "random": chance[: len(on_train)]}
    test = {"digit": on_test.labels[0], "random": chance[len(on_train) :]}
    for step in settings.stages:
        train[f"stage {step}"], test[f"stage {step}"] = found.train[step], found.test[step]
    generator = torch.Generator(device).manual_seed(seed + _SAMPLE_VIEWS)
    images = on_train.images[:SAMPLES]
    drawn = [augment(images, generator) for _ in range(VIEWS + TEST_VIEWS)]

    def views(parts: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        labels = targets.sample_labels(SAMPLES, len(parts)).to(device)
        return torch.cat(parts), {"sample": labels}

    agreement = {
        name: float((labels == train["digit"]).double().mean()) for name, labels in train.items()
    }
    return Data(
        (on_train.images, train),
        (on_test.images, test),
        views(drawn[:VIEWS]),
        views(drawn[VIEWS:]),
        agreement,
    )


class Run:
    """A model in training.

    Args:
        given: the data of ``seed``.
        path: a file of the rows that are measured, of this run alone; appended.
    """

    def __init__(
        self, settings: StudySettings, seed: int, method: str, given: Data, path: Path
    ) -> None:
        self.settings, self.seed, self.method, self.data = settings, seed, method, given
        device = given.train[0].device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the encoders of all methods start alike
            self.encoder = Encoder().to(device)
            self.model: nn.Module = self.encoder
            if METHODS[method] is None:
                self.model = Classifier(10).to(device)
                self.model.encoder = self.encoder
        self.path = path
        watched: dict[str, Any] = {"keep": True, "batch_rows": 4096}
        names = list(LAYERS)
        self.monitors = [
            EmbeddingMonitor(
                self.encoder,
                names,
                given.train,
                test=given.test,
                superclasses={"shape": digits.PARENTS},
                **watched,
            ),
            EmbeddingMonitor(
                self.encoder,
                names[-2:],
                given.views,
                test=given.test_views,
                **watched,
            ),
        ]
        self.training_seconds = 0.0

    @property
    def measuring_seconds(self) -> float:
        return sum(monitor.seconds for monitor in self.monitors)

    def train(self, on_epoch: Callable[[int], None] = lambda _: None) -> None:
        """All epochs, measured on the way."""
        s = self.settings
        images, labels = self.data.train
        steps = max(1, len(images) // s.batch)
        total = steps * s.epochs

        def rate(step: int) -> float:
            return min(1.0, (step + 1) / (0.1 * total)) * (1 + math.cos(math.pi * step / total)) / 2

        optimizer = torch.optim.AdamW(self.model.parameters(), lr=s.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        generator = torch.Generator(images.device).manual_seed(self.seed)
        marks = set(s.measured_epochs())
        self._calibrate(images)
        if 0 in marks:
            self._measure(0, self._untrained(images, labels["digit"]))
        for epoch in range(1, s.epochs + 1):
            start = time.perf_counter()
            order = torch.randperm(len(images), device=images.device, generator=generator)
            sums = torch.zeros(len(Split._fields), device=images.device)
            self.model.train()
            for number, rows in enumerate(order[: steps * s.batch].split(s.batch)):
                terms = self._terms(
                    images[rows], labels["digit"][rows], (epoch - 1) * steps + number, generator
                )
                optimizer.zero_grad()
                terms.loss.backward()
                optimizer.step()
                schedule.step()
                sums += torch.stack([term.detach() for term in terms])
            self.training_seconds += time.perf_counter() - start
            if epoch in marks:
                self._measure(epoch, dict(zip(Split._fields, (sums / steps).tolist(), strict=True)))
            on_epoch(epoch)

    def _terms(
        self, images: Tensor, labels: Tensor, step: int, generator: torch.Generator
    ) -> Split:
        method = METHODS[self.method]
        found = self.model(two_views(images, generator))
        if method is None:
            return supervised(found, labels.repeat(2))
        x, y = found.chunk(2)
        return method(x, y, step)

    @torch.no_grad()
    def _calibrate(self, images: Tensor) -> None:
        """Give untrained batch norms the statistics of the data, for a fair start."""
        generator = torch.Generator(images.device).manual_seed(self.seed)
        self.model.train()
        for _ in range(4):
            for part in images.split(self.settings.batch):
                self.model(two_views(part, generator))

    @torch.no_grad()
    def _untrained(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """The terms of the first batch, before the first step."""
        generator = torch.Generator(images.device).manual_seed(self.seed)
        batch = slice(self.settings.batch)
        terms = self._terms(images[batch], labels[batch], 0, generator)
        return {name: float(term) for name, term in zip(Split._fields, terms, strict=True)}

    def _measure(self, epoch: int, terms: dict[str, float]) -> None:
        images, views = self.monitors
        rows = images.measure(epoch, losses=terms)
        # What is of a layer whatever the labeling is that of the images.
        rows += [row for row in views.measure(epoch) if row["labeling"]]
        records.append(self.path, rows)


def finish(path: Path, content: dict[str, Any]) -> None:
    """The mark of a run that is complete, beside its rows."""
    with replaced(path) as file:
        json.dump(content, file)
