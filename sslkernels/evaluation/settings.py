"""The options of :func:`sslkernels.evaluate`, each declared once: default, check, and what the
command line calls it and says of it.

The checks, the checkpoint and ``sslkernels report`` read this declaration. The signature of
``evaluate`` repeats names and defaults for its readers; a test holds the two together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from sslkernels import _checks
from sslkernels.evaluation.labelings import Labeling
from sslkernels.statistics.neural_collapse import checked_classifier


def natural(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{name}: expected an int that is not negative, got {value!r}")
    return _bounded(value, name)


def positive(value: Any, name: str) -> int:
    return _bounded(_checks.positive_int(value, name), name)


def _bounded(value: Any, name: str) -> int:
    """Every number is compared with int64 somewhere."""
    if not -(2**63) <= int(value) < 2**63:
        raise ValueError(f"{name}: expected an int of 64 bits, got {int(value)}")
    return int(value)


def _truth(value: Any, name: str) -> bool:
    return bool(value)


def _ks(values: Sequence[int], name: str) -> tuple[int, ...]:
    return tuple(sorted({1, *(positive(k, name) for k in values)}))


def _shots(values: int | Sequence[int], name: str) -> tuple[int, ...]:
    listed = [values] if isinstance(values, int) else values
    return tuple(sorted({positive(m, name) for m in listed}))


def _ranks(values: tuple[int, int], name: str) -> tuple[int, int]:
    low, high = (positive(rank, name) for rank in values)
    if low >= high:
        raise ValueError(f"{name}: expected a first rank below the last, got {(low, high)}")
    return low, high


def _rows_or_none(value: int | None, name: str) -> int | None:
    return None if value is None else positive(value, name)


def _largest_matrix(value: bool | int, name: str) -> int:
    """The largest number of classes whose CDNV matrix is kept."""
    if isinstance(value, bool):
        return sys.maxsize if value else 0
    return natural(value, name)


def _as_given(value: Any, name: str) -> Any:
    return value


NUMBERS = "numbers"  # a kind of value on the command line: integers with commas between


def _option(
    default: Any, check: Callable[[Any, str], Any], flag: str = "", kind: Any = int, **more: Any
) -> Any:
    """A field of :class:`Settings`.

    Args:
        default: of the argument of ``evaluate``.
        check: the value that is kept, from one that was given and the name of the option.
        flag: on the command line; "" for an option that is not there.
        kind: the type of its value there; a bool is a flag of its own.
        more: ``decides=False`` where it does not decide the numbers, ``shown`` for the default on
            the command line if it is another, ``scale`` from the number there to the argument's,
            and ``help``, ``min``, ``metavar``, ``show_default`` as ``typer.Option`` takes them.
    """
    metadata = {"check": check, "flag": flag, "kind": kind, "decides": True, "shown": default}
    return field(default=default, metadata={**metadata, **more})


@dataclass(frozen=True)
class Settings:
    """The options of one evaluation, checked; those that decide the numbers are the same in a run
    that resumes."""

    # fmt: off
    top_k: tuple[int, ...] = _option(
        (1, 5), _ks, "--top-k", NUMBERS, shown="1,5", metavar="K,...",
        help="NCC among the K nearest centers.")
    few_shot: tuple[int, ...] = _option(
        (), _shots, "--few-shot", NUMBERS, shown=None, metavar="M,...", show_default=False,
        help="NCC with centers of M random rows per class; each draw costs one NCC pass.")
    few_shot_repeats: int = _option(
        10, positive, "--few-shot-repeats", min=1, help="Draws for each M of --few-shot.")
    seed: int = _option(0, natural, "--seed", min=0, help="Seed of random draws and samples.")
    normalize: bool = _option(
        False, _truth, "--normalize", bool, help="Divide each row by its length first.")
    directional: bool = _option(
        True, _truth, "--directional/--no-directional", bool, help="Measure directional CDNV.")
    spectrum: bool = _option(
        True, _truth, "--spectrum/--no-spectrum", bool,
        help="Measure spectra, which takes sums of D x D numbers.")
    alpha_ranks: tuple[int, int] = _option((4, 100), _ranks)
    uniformity_rows: int = _option(
        4096, natural, "--uniformity-rows", min=0, help="Rows sampled for uniformity; 0 skips it.")
    ignore_index: int = _option(
        -100, _bounded, "--ignore-label", help="Rows with this label are skipped.")
    skip_bad: bool = _option(
        False, _truth, "--skip-bad", bool,
        help="Leave out bad rows (NaN, infinity) and shards, and list them.")
    cdnv_matrix: int = _option(False, _largest_matrix, decides=False)
    checkpoint: str | None = _option(  # or any path
        None, _as_given, "--checkpoint", str, decides=False, metavar="FILE", show_default=False,
        help="Save the progress there: an interrupted run resumes from it with the same bits. "
        "Removed when the report is written.")
    checkpoint_seconds: float = _option(
        30.0, _as_given, "--checkpoint-seconds", float, decides=False, min=0.0,
        help="Seconds between two saves of it.")
    chunk_bytes: int = _option(
        256 << 20, positive, "--chunk-mb", decides=False, shown=256, scale=1 << 20, min=1,
        help="Size of the chunks of rows that are read, in MiB.")
    chunk_rows: int | None = _option(
        None, _rows_or_none, "--chunk-rows", decides=False, min=1, show_default=False,
        help="Rows per chunk, in place of --chunk-mb.")
    # fmt: on

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> Settings:
        """From arguments by name, others among them, or an error that names the wrong one."""
        return cls(**{f.name: f.metadata["check"](given[f.name], f.name) for f in fields(cls)})

    def as_dict(self) -> dict[str, Any]:
        """What decides the numbers, as JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["decides"]}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


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
