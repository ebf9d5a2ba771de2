"""The readings of one evaluation, source by source: resumable, and shared by ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from sslkernels.data import DataError, Source
from sslkernels.evaluation.checkpoint import Checkpoint, Stage
from sslkernels.evaluation.first_pass import FirstPass
from sslkernels.evaluation.labelings import Labeling
from sslkernels.evaluation.parts import Parts
from sslkernels.evaluation.ranks import Ranks
from sslkernels.evaluation.rows import LISTED, BadRows, chunks
from sslkernels.evaluation.second_pass import TestPass, TrainPass
from sslkernels.evaluation.settings import Settings
from sslkernels.evaluation.views import PairedViews, ViewPass

P = TypeVar("P", bound=Parts)
OnRows = Callable[[str, str, int, int | None], None]


@dataclass
class Reading:
    """How the rows of a run are read."""

    labelings: Sequence[Labeling]
    settings: Settings
    classifiers: Mapping[str, tuple[Any, Any]]
    chunk_rows: int
    device: torch.device
    ranks: Ranks
    checkpoint: Checkpoint
    on_rows: OnRows  # (source, stage, rows of the chunk just done, rows of the stage if known)


@dataclass
class Measured:
    """The sums of one source, merged over all ranks."""

    first: FirstPass
    second: TrainPass
    rows: int  # rows read, bad ones included
    bad: dict[str, dict[str, Any]]  # by stage: {"count": ..., "first": [...]}
    test: TestPass | None = None
    test_rows: int = 0
    alignment: float | None = None


def read(
    name: str, train_of_all: Source, test: Source | None, view: Source | None, how: Reading
) -> Measured:
    """All readings of one source of training rows, of its test rows and of its second view."""
    ranks, settings, labelings = how.ranks, how.settings, how.labelings
    how.checkpoint.begin(name)
    train = ranks.together(lambda: _share(train_of_all, how))
    labels = [item.train for item in labelings]

    def first_pass(dim: int, dtype: torch.dtype) -> FirstPass:
        return FirstPass(labelings, dim, dtype=dtype, device=how.device, settings=settings)

    first, moments = ranks.together(lambda: _stage(name, "moments", train, labels, first_pass, how))
    if train.private:  # streams show it only now
        ranks.agree({f"columns and dtype of {train.name}": (train.dim, train.dtype)})
    ranks.reduce(first)
    counts = ranks.gather(moments.rows)
    # Rows of ranks that have their own are numbered in the order of the ranks.
    before = sum(counts[: ranks.rank]) if train.private else train.offset

    def second_stage() -> TrainPass:
        second = TrainPass(labelings, first, sum(counts), settings, how.classifiers)
        _, stage = _stage(name, "train", train, labels, lambda *_: second, how, before)
        if stage.rows != moments.rows:
            raise DataError(
                f"{train.name}: yielded {moments.rows} rows when first read, "
                f"{stage.rows} the second time"
            )
        return second

    second = ranks.together(second_stage)
    ranks.reduce(second)
    measured = Measured(first, second, sum(counts), {"train": _all_bad(ranks, moments)})
    if test is not None:
        on_test = [item.test for item in labelings]

        def test_stage() -> tuple[TestPass, Stage]:
            third = TestPass(labelings, second.moments, first, settings)
            return _stage(name, "test", _share(test, how), on_test, lambda *_: third, how)

        third, stage = ranks.together(test_stage)
        ranks.reduce(third)
        measured.test = third
        measured.test_rows = sum(ranks.gather(stage.rows))
        measured.bad["test"] = _all_bad(ranks, stage)
    if view is not None:

        def view_stage() -> tuple[ViewPass, Stage]:
            pairs, gaps = PairedViews(train, _share(view, how)), ViewPass(how.device)
            return _stage(name, "views", pairs, [None] * len(labels), lambda *_: gaps, how)

        gaps, stage = ranks.together(view_stage)
        ranks.reduce(gaps)
        measured.alignment = gaps.alignment
        measured.bad["views"] = _all_bad(ranks, stage)
    return measured


def _share(source: Source, how: Reading) -> Source:
    """This rank's part; that of a stream is the whole."""
    if source.private or how.ranks.size == 1:
        return source
    return source.part(how.ranks.rank, how.ranks.size, how.chunk_rows)


def _all_bad(ranks: Ranks, stage: Stage) -> dict[str, Any]:
    everyone = ranks.gather((stage.bad, stage.first))
    first = [where for _, listed in everyone for where in listed]
    return {"count": sum(count for count, _ in everyone), "first": first[:LISTED]}


def _stage(
    source_name: str,
    stage_name: str,
    source: Source,
    labels: Sequence[np.ndarray | None],
    parts_for: Callable[[int, torch.dtype], P],
    how: Reading,
    before: int | None = None,
) -> tuple[P, Stage]:
    """Read what is left of one stage: the sums of this rank alone, and the state to keep.

    ``before`` numbers the rows: how many there are before the first; by default the offset of the
    source. ``parts_for(dim, dtype)`` makes the sums, of a stream when its first rows show both.
    """
    done = how.checkpoint.stages.get(stage_name, Stage())
    parts: P | None = None
    if source.dim is not None and source.dtype is not None:
        parts = parts_for(source.dim, source.dtype)
        if done.sums:
            parts.load_state_dict(done.sums)
    bad = BadRows(done.bad, list(done.first))
    count, total = done.chunks, done.rows

    def reached() -> Stage:
        sums = parts.state_dict() if parts is not None and how.checkpoint.active else {}
        return Stage(count, total, bad.count, list(bad.first), sums)

    how.on_rows(source_name, stage_name, total, source.rows)
    for rows in chunks(
        source,
        how.labelings,
        labels,
        chunk_rows=how.chunk_rows,
        first=count,
        before=source.offset if before is None else before,
        device=how.device,
        normalize=how.settings.normalize,
        ignore_index=how.settings.ignore_index,
        bad=bad if how.settings.skip_bad else None,
    ):
        if parts is None:
            parts = parts_for(rows.z.shape[1], rows.z.dtype)
        parts.update(rows)
        count += 1
        total += rows.total
        how.checkpoint.note(stage_name, reached)
        how.on_rows(source_name, stage_name, rows.total, source.rows)
        del rows  # its memory is for the chunk after the next
    if parts is None:
        raise DataError(f"{source.name}: yields no rows")
    stage = reached()
    how.checkpoint.keep(stage_name, stage)
    return parts, stage
