"""What an evaluation measures: the options of :func:`sslkernels.evaluate`, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from sslkernels import _checks
from sslkernels.evaluation.labelings import Labeling
from sslkernels.statistics.neural_collapse import checked_classifier


@dataclass(frozen=True)
class Settings:
    """Options that decide the numbers; a resumed run must have the same."""

    top_k: tuple[int, ...]
    directional: bool
    spectrum: bool
    alpha_ranks: tuple[int, int]
    uniformity_rows: int
    few_shot: tuple[int, ...]
    few_shot_repeats: int
    seed: int
    normalize: bool
    ignore_index: int
    skip_bad: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


def checked(
    *,
    top_k: Sequence[int],
    directional: bool,
    spectrum: bool,
    alpha_ranks: tuple[int, int],
    uniformity_rows: int,
    few_shot: int | Sequence[int],
    few_shot_repeats: int,
    seed: int,
    normalize: bool,
    ignore_index: int,
    skip_bad: bool,
) -> Settings:
    """The options as :class:`Settings`, or an error that names the wrong one."""
    low, high = (positive(rank, "alpha_ranks") for rank in alpha_ranks)
    if low >= high:
        raise ValueError(f"alpha_ranks: expected a first rank below the last, got {(low, high)}")
    shots = [few_shot] if isinstance(few_shot, int) else few_shot
    return Settings(
        top_k=tuple(sorted({1, *(positive(k, "top_k") for k in top_k)})),
        directional=bool(directional),
        spectrum=bool(spectrum),
        alpha_ranks=(low, high),
        uniformity_rows=natural(uniformity_rows, "uniformity_rows"),
        few_shot=tuple(sorted({positive(m, "few_shot") for m in shots})),
        few_shot_repeats=positive(few_shot_repeats, "few_shot_repeats"),
        seed=natural(seed, "seed"),
        normalize=bool(normalize),
        ignore_index=_bounded(int(ignore_index), "ignore_index"),
        skip_bad=bool(skip_bad),
    )


def classifiers(
    weight: Any, bias: Any, names: Sequence[str], device: torch.device
) -> dict[str, tuple[Any, Any]]:
    """``{labeling: (weight, bias or None)}`` on ``device``; a bare array goes with the only
    labeling."""
    weights = _by_name(weight, "weight", names)
    biases = _by_name(bias, "bias", names)
    for name in biases:
        if name not in weights:
            raise ValueError(f"bias: labeling {name!r} has no weight beside it")
    return {
        name: (_on(device, w, "weight"), _on(device, biases.get(name), "bias"))
        for name, w in weights.items()
    }


def check_classifiers(
    heads: Mapping[str, tuple[Any, Any]], labelings: Sequence[Labeling], dim: int | None
) -> None:
    """Every classifier fits its labeling and the embeddings, if their columns are known."""
    for labels in labelings:
        if dim is not None and labels.name in heads:
            weight, bias = heads[labels.name]
            checked_classifier(weight, bias, labels.num_classes, dim, weight.device)


def _on(device: torch.device, value: Any, name: str) -> torch.Tensor | None:
    return None if value is None else _checks.as_tensor(value, name).detach().to(device)


def _by_name(value: Any, what: str, names: Sequence[str]) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        if len(names) != 1:
            raise ValueError(f"{what}: expected a mapping from labeling to array for {list(names)}")
        return {names[0]: value}
    for name in value:
        if name not in names:
            raise ValueError(f"{what}: no labeling {name!r}; there are {list(names)}")
    return dict(value)


def natural(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{name}: expected an int that is not negative, got {value!r}")
    return _bounded(int(value), name)


def positive(value: Any, name: str) -> int:
    return _bounded(_checks.positive_int(value, name), name)


def _bounded(value: int, name: str) -> int:
    """Every number is compared with int64 somewhere."""
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name}: expected an int of 64 bits, got {value}")
    return value
