"""``class_moments_update`` in plain torch operations, in float64.

Each chunk of rows is widened once and used for all labelings: sorted by class, reduced segment by
segment (no atomics, so the bits repeat), first to means around the first row of each class, then to
squares around those means; the chunk's moments merge into the states (Chan et al.).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sslkernels.passes.class_moments import bad_label

# 16 MiB of float64: malloc keeps blocks below 32 MiB, and faulting in fresh ones doubled the time.
_CHUNK_ELEMENTS = 1 << 21


def class_moments_update(
    z: torch.Tensor,  # [N, D] embeddings, any strides
    labels: torch.Tensor,  # int64 [K, N]
    states: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    ignore_index: int,
    *,
    elements: int = _CHUNK_ELEMENTS,
) -> torch.Tensor:
    _check_labels(labels, [len(counts) for counts, _, _ in states], ignore_index)
    rows = max(1, elements // z.shape[1])
    for chunk, chunk_labels in zip(z.split(rows), labels.split(rows, dim=1), strict=True):
        wide = chunk.to(torch.float64)
        for row_labels, state in zip(chunk_labels, states, strict=True):
            _add(wide, row_labels, state, ignore_index)
    return labels.new_empty((0, 2))


def _check_labels(labels: torch.Tensor, sizes: Sequence[int], ignore_index: int) -> None:
    for k, (row_labels, size) in enumerate(zip(labels, sizes, strict=True)):
        bad = (row_labels != ignore_index) & ((row_labels < 0) | (row_labels >= size))
        if bad.any():
            row = int(bad.to(torch.uint8).argmax())
            name = "labels" if len(sizes) == 1 else f"labels[{k}]"
            raise bad_label(name, row, int(row_labels[row]), size, ignore_index)


def _add(
    z: torch.Tensor,  # float64 [n, D]
    labels: torch.Tensor,  # [n]
    state: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ignore_index: int,
) -> None:
    counts, mean, m2 = state
    order = labels.argsort(stable=True)
    order = order[labels[order] != ignore_index]
    if len(order) == 0:
        return
    classes, n_b = labels[order].unique_consecutive(return_counts=True)
    segment = torch.repeat_interleave(torch.arange(len(classes), device=z.device), n_b)

    # In place from here on: a copy of n x D costs as much as the arithmetic on it.
    rows = z.index_select(0, order)
    shift = rows.index_select(0, n_b.cumsum(0) - n_b)
    rows -= shift.index_select(0, segment)
    off = _sums(rows, n_b) / n_b.unsqueeze(1)
    rows -= off.index_select(0, segment)
    mean_b = shift + off
    m2_b = _sums(torch.linalg.vecdot(rows, rows).unsqueeze(1), n_b).squeeze(1)

    n_a = counts[classes]
    n = n_a + n_b
    share = n_b.to(torch.float64) / n
    delta = mean_b - mean[classes]
    known = n_a > 0  # a new class is taken as it is
    mean[classes] = torch.where(
        known.unsqueeze(1), mean[classes] + delta * share.unsqueeze(1), mean_b
    )
    spread = delta.square().sum(1) * (n_a * share)
    m2[classes] += m2_b + spread.masked_fill(~known, 0.0)
    counts[classes] = n


def _sums(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Sums of consecutive rows [sum(lengths), M] -> [len(lengths), M]."""
    return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True)
