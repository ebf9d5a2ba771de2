"""``evaluate``: every statistic of embeddings from one call, each row read as few times as the
mathematics allows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sslkernels import _checks
from sslkernels.evaluation.checkpoint import Checkpoint, path_of_rank
from sslkernels.evaluation.finish import finish
from sslkernels.evaluation.jobs import device_of, hashed, open_jobs
from sslkernels.evaluation.ranks import Ranks
from sslkernels.evaluation.result import (
    NCC,
    EmbeddingsResult,
    Evaluation,
    FewShotResult,
    LabelingResult,
    SpectrumResult,
    packed,
    unpacked,
)
from sslkernels.evaluation.run import Reading, read
from sslkernels.evaluation.settings import check_classifiers, checked, classifiers, natural

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
        few_shot: numbers of shots for few-shot NCC; the test rows are classified, or the training
            rows that were not drawn. Each costs ``few_shot_repeats`` NCC passes.
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
            all rows, on every rank.
        checkpoint: a file that keeps the progress; a run that was killed goes on from it, to the
            same bits. Not for streams.
        checkpoint_seconds: time between two writings of that file.
        spool: a folder in which a one-shot iterator is kept for its second reading.
        on_rows: called as ``on_rows(name, stage, rows, total)`` after every chunk.

    Returns:
        :class:`Evaluation`: ``result["fine"].cdnv``, ``result.rows()`` as a tidy table.

    Raises:
        DataError: (a ValueError) data or labels cannot be used; it names the file and the row.
            Headers, lengths and labels are checked before any embedding is read.
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
    settings = checked(
        top_k=top_k,
        directional=directional,
        spectrum=spectrum,
        alpha_ranks=alpha_ranks,
        uniformity_rows=uniformity_rows,
        few_shot=few_shot,
        few_shot_repeats=few_shot_repeats,
        seed=seed,
        normalize=normalize,
        ignore_index=ignore_index,
        skip_bad=skip_bad,
    )
    ranks = Ranks(group)
    where = device_of(device, z)
    jobs = ranks.together(
        lambda: open_jobs(
            z, labels, num_classes, superclasses, z_test, labels_test, z_view, settings, spool
        )
    )
    names = [item.name for item in next(iter(jobs.values())).labelings]
    heads = classifiers(weight, bias, names, where)
    for job in jobs.values():
        check_classifiers(heads, job.labelings, job.train.dim)
    if chunk_rows is not None:
        chunk_rows = _checks.positive_int(chunk_rows, "chunk_rows")
    chunk_bytes = _checks.positive_int(chunk_bytes, "chunk_bytes")
    limit = _matrix_limit(cdnv_matrix)
    for option, wanted in (("checkpoint", checkpoint is not None), ("few_shot", settings.few_shot)):
        if wanted and any(job.streamed for job in jobs.values()):
            raise ValueError(
                f"{option}: takes files or arrays, whose rows can be found again; "
                "spool keeps a one-shot iterator in files"
            )
    if settings.few_shot and ranks.size > 1 and any(job.private for job in jobs.values()):
        raise ValueError("few_shot: over several ranks takes files or arrays that all ranks see")
    rows = {
        name: chunk_rows or job.chunk_rows(chunk_bytes, ranks.size) for name, job in jobs.items()
    }
    run = {
        "inputs": {name: {**job.identity(), "chunk_rows": rows[name]} for name, job in jobs.items()}
        if checkpoint is not None
        else {},
        "settings": settings.as_dict(),
        "classifiers": {name: hashed(pair) for name, pair in heads.items()},
        "cdnv_matrix": limit,
        "ranks": [ranks.rank, ranks.size],
    }
    if checkpoint is not None:
        checkpoint = path_of_rank(checkpoint, ranks)
    progress = ranks.together(lambda: Checkpoint(checkpoint, run, checkpoint_seconds))
    results: dict[str, EmbeddingsResult] = {}
    for name, job in jobs.items():
        # Ranks may have been stopped on either side of a finish: what all have is done.
        if all(ranks.gather(name in progress.results)):
            results[name] = unpacked(progress.results[name])
            continue
        how = Reading(
            job.labelings,
            settings,
            heads,
            rows[name],
            where,
            ranks,
            progress,
            on_rows or (lambda *_: None),
        )
        sums = read(name, job.train, job.test, job.view, how)
        result = finish(
            name,
            sums,
            job.labelings,
            settings,
            heads,
            skipped=job.skipped,
            cdnv_matrix=limit,
            ranks=ranks,
        )
        if progress.active:
            progress.finish(name, packed(result))
        results[name] = result
    how_read = {"chunk_rows": rows, "device": where.type, "ranks": ranks.size}
    return Evaluation(results, {**settings.as_dict(), **how_read})


def _matrix_limit(wanted: bool | int) -> int:
    """The largest number of classes whose CDNV matrix is kept."""
    if isinstance(wanted, bool):
        return sys.maxsize if wanted else 0
    return natural(wanted, "cdnv_matrix")
