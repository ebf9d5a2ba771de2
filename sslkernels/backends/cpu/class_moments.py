"""``class_moments_update`` in C++: the ways through the data are in
``csrc/class_moments/class_moments.cpp``, the arithmetic in ``run.cpp`` there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu._views import pointer, view
from sslkernels.passes.class_moments import bad_label


def class_moments_update(
    z: torch.Tensor,  # [N, D] embeddings, any strides
    labels: torch.Tensor,  # int64 [K, N] contiguous
    states: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    ignore_index: int,
    cuts: Mapping[str, int] | None = None,
) -> torch.Tensor:
    """Accumulates in float32 within 8 rows around the first of them (float64 for float64 ``z``, and
    again for rows whose squares float32 cannot hold), in float64 across; m2 overflows where float64
    does. Several labelings that are not functions of each other accumulate in float32 around the
    middle of the batch, 64 rows at a time; there a class's mean is good to a few float32 eps of its
    distance from that middle, per column, and classes tighter than half that distance are read
    again. Float64 ``z``, and fewer than 64 rows per class, take a read for each such labeling.

    The bits do not depend on the number of threads. Memory: 8 bytes per row, float64 moments of
    parts of the batch (1/16 of ``z`` or a few MB), at most 8 MB per thread; 8 bytes per row and
    labeling more where classes are read again.
    """
    pointers = [(len(n), pointer(n), pointer(mean), pointer(m2)) for n, mean, m2 in states]
    labeling, row, value = _C.class_moments_update(
        view(z), pointer(labels), pointers, ignore_index, torch.get_num_threads(), cuts
    )
    if row >= 0:
        name = "labels" if len(states) == 1 else f"labels[{labeling}]"
        raise bad_label(name, row, value, len(states[labeling][0]), ignore_index)
    return labels.new_empty((0, 2))
