"""What a study trains and how long, in one value that is written beside its results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from sslkernels.study.methods import ABLATIONS, METHODS


@dataclass(frozen=True)
class StudySettings:
    """Options of a study; the defaults take under five minutes on two cores.

    Attributes:
        methods: names of :data:`METHODS` that are compared.
        ablations: whether VICReg is also trained with its invariance alone, and without it.
        seeds: how many; each draws its own split, weights, views and targets.
        epochs: passes over the training images.
        measurements: about how many times a run is measured, before training included.
        batch: images of a step.
        learning_rate: of AdamW; up in a line for a tenth of the steps, down in a half cosine.
        stages: optimizer steps of a supervised network at which its predictions become targets.
    """

    methods: tuple[str, ...] = ("vicreg", "simclr", "supervised")
    ablations: bool = True
    seeds: int = 3
    epochs: int = 40
    measurements: int = 8
    batch: int = 256
    learning_rate: float = 2e-3
    stages: tuple[int, ...] = (0, 1, 2, 4, 200)

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS or name in ABLATIONS:
                known = ", ".join(key for key in METHODS if key not in ABLATIONS)
                raise ValueError(f"methods: expected some of {known}, got {name!r}")
        for name in ("seeds", "epochs", "measurements", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")

    @classmethod
    def quick(cls) -> StudySettings:
        """A look at the whole in under a minute on two cores."""
        return replace(cls(), seeds=2, epochs=6, measurements=3, stages=(0, 2, 60))

    def runs(self) -> list[tuple[int, str]]:
        """Every ``(seed, method)``, the first seed of all methods first."""
        ablated = ABLATIONS if self.ablations and "vicreg" in self.methods else ()
        return [(seed, name) for seed in range(self.seeds) for name in (*self.methods, *ablated)]

    def measured_epochs(self) -> list[int]:
        """The epochs after which a run is measured, denser at the start; 0 is before training."""
        last, count = self.epochs, self.measurements
        if count == 1:
            return [last]
        marks = {round(last * (k / (count - 1)) ** 2) for k in range(count)}
        return sorted(marks | {0, min(1, last), last})

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> StudySettings:
        """Settings from :meth:`as_dict`."""
        fields: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        return cls(**fields)

    def as_dict(self) -> dict[str, Any]:
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
