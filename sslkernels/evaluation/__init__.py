"""``evaluate``: every statistic of embeddings from one call, each row read as few times as the
mathematics allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from sslkernels.evaluation.checkpoint import Checkpoint, path_of_rank
from sslkernels.evaluation.finish import finish
from sslkernels.evaluation.plan import Plan, planned
from sslkernels.evaluation.ranks import Ranks
from sslkernels.evaluation.result import (
    NCC,
    EmbeddingsResult,
    Evaluation,
    FewShotResult,
    LabelingResult,
    SpectrumResult,
)
from sslkernels.evaluation.run import Reading, read

__all__ = [
    "NCC",
    "EmbeddingsResult",
    "Evaluation",
    "FewShotResult",
    "LabelingResult",
    "SpectrumResult",
    "evaluate",
]


def evaluate(
    z: Any,
    labels: Any = None,
    num_classes: int | Sequence[int] | Mapping[str, int] | None = None,
    *,
    superclasses: Mapping[str, Any] | None = None,
    z_test: Any = None,
    labels_test: Any = None,
    z_view: Any = None,
    weight: Any = None,
    bias: Any = None,
    top_k: Sequence[int] = (1, 5),
    directional: bool = True,
    spectrum: bool = True,
    alpha_ranks: tuple[int, int] = (4, 100),
    uniformity_rows: int = 4096,
    few_shot: int | Sequence[int] = (),
    few_shot_repeats: int = 10,
    seed: int = 0,
    normalize: bool = False,
    cdnv_matrix: bool | int = False,
    ignore_index: int = -100,
    skip_bad: bool = False,
    chunk_rows: int | None = None,
    chunk_bytes: int = 256 << 20,
    device: torch.device | str | None = None,
    group: Any = None,
    checkpoint: Any = None,
    checkpoint_seconds: float = 30.0,
    spool: Any = None,
    on_rows: Callable[[str, str, int, int | None], None] | None = None,
) -> Evaluation:
    """Class geometry, neural collapse and spectrum of embeddings, streamed.

    The training rows are read twice (class moments, then everything that is measured against
    them), the test rows once. Nothing of size N x C or N x N is kept, nor C x C beyond 64 MiB
    (unless ``cdnv_matrix``). A labeling whose classes are unions of another's is merged from it,
    exactly.

    Args:
        z: training embeddings [N, D]: tensor, array, path of a file or folder, or a re-iterable of
            ``(embeddings, labels)`` batches; [L, N, D] or a dict of names for several sets (layers,
            checkpoints), measured one after another. What can be opened: ``docs/data.md``.
        labels: [N] integers, [K, N] for K labelings, a path, or a dict from name to any of these.
            Left out, those found beside the data are taken; without any, only what needs no labels
            is measured. Streams bring their own.
        num_classes: C, or one for each labeling; by default the largest label + 1. Streams need it.
        superclasses: by name, the superclass of each class of the first labeling, [C] integers: one
            more labeling, without labels of its own.
        z_test, labels_test: rows to be classified with the centers of ``z``, and their labels for
            some or all of the labelings, by name.
        z_view: a second view of the rows of ``z``, for alignment.
        weight, bias: of a linear classifier, [C, D] and [C], for NC3 and NC4; a dict by labeling
            when there are several.
        top_k: the k of NCC accuracy among the k nearest centers; 1 is always one of them.
        directional: measure directional CDNV.
        spectrum: measure spectra, total and within classes; D x D float64 sums.
        alpha_ranks: ranks of the fit of alpha-ReQ.
        uniformity_rows: rows of the seeded sample that uniformity is measured on; 0 for none.
        few_shot, few_shot_repeats: numbers of shots for few-shot NCC, and draws of each, one NCC
            pass per draw. The test rows are classified; without any, the training rows that were
            not drawn.
        seed: of the few-shot draws and of the sample.
        normalize: divide every row by its length first.
        cdnv_matrix: keep the C x C matrices of CDNV; a number keeps those of labelings with up to
            so many classes.
        ignore_index: rows with this label are skipped in that labeling.
        skip_bad: leave out rows with NaN or infinity and shards that cannot be read, and list them
            in the result; otherwise they are errors.
        chunk_rows, chunk_bytes: rows read at a time; by default at most 256 MiB of
            them, and as many chunks for each rank.
        device: where rows are measured; by default that of ``z``, the CPU for files.
        group: ``"world"`` or a ``torch.distributed`` group: every rank names the same files or
            arrays and reads its share (a stream is the rank's own share); the result is that of
            all rows, on every rank. An error on one rank is raised on all, and so is a
            difference between their arguments.
        checkpoint: a file that keeps the progress: an interrupted run resumes from it and ends with
            the same bits. A damaged file, or one of another run, is an error. Not for streams.
        checkpoint_seconds: time between two writings of that file.
        spool: a folder in which a one-shot iterator is kept for its second reading.
        on_rows: called as ``on_rows(name, stage, rows, total)`` after every chunk.

    Returns:
        :class:`Evaluation`: ``result["fine"].cdnv``, ``result.rows()`` as a tidy table.

    Raises:
        DataError: (a ValueError) data or labels cannot be used; it names the file and the row.
            Headers, lengths and labels are checked before any embedding is read. A file that
            changes between its readings, or under one, is such an error.
        ValueError, TypeError: an argument is wrong, named.

    Example:
        >>> import torch, sslkernels as ssk
        >>> labels = torch.arange(300) % 6
        >>> z = torch.nn.functional.one_hot(labels, 8) + 0.01 * torch.ones(300, 8)
        >>> result = ssk.evaluate(z, {"fine": labels, "coarse": labels // 2})
        >>> result["fine"].train.accuracy, result["coarse"].num_classes
        (1.0, 3)
        >>> result.rows()[0]
        {'embeddings': '', 'labeling': '', 'split': 'train', 'statistic': 'rows', 'value': 300}
    """
    given = locals()  # the arguments by name
    ranks = Ranks(group)
    plan = ranks.together(lambda: planned(given, ranks.size))
    if ranks.size > 1:
        ranks.agree(ranks.together(plan.facts))
    progress = ranks.together(lambda: _progress(plan, ranks))
    results: dict[str, EmbeddingsResult] = {}
    for name, job in plan.jobs.items():
        # Ranks may have been stopped on either side of a finish: what all have is done.
        if all(ranks.gather(name in progress.results)):
            results[name] = ranks.together(partial(progress.result, name))
            continue
        how = Reading(
            job.labelings,
            plan.settings,
            plan.heads,
            plan.rows[name],
            plan.device,
            ranks,
            progress,
            on_rows or (lambda *_: None),
        )
        sums = read(name, job.train, job.test, job.view, how)
        results[name] = finish(name, sums, how, job.skipped)
        ranks.together(partial(progress.finish, name, results[name]))
    how_read = {"chunk_rows": dict(plan.rows), "device": plan.device.type, "ranks": ranks.size}
    return Evaluation(results, {**plan.settings.as_dict(), **how_read})


def _progress(plan: Plan, ranks: Ranks) -> Checkpoint:
    path, every = plan.settings.checkpoint, plan.settings.checkpoint_seconds
    if path is None:
        return Checkpoint(None, {}, every)
    run = {**plan.run(), "ranks": [ranks.rank, ranks.size]}
    return Checkpoint(path_of_rank(path, ranks), run, every)
