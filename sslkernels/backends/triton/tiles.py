"""Every tile, warp and stage count of the package, from shape, dtype and device.

Each function returns the candidates for one kernel, best guess first. A launcher takes the first;
with the environment variable ``SSLKERNELS_AUTOTUNE=1`` it times all of them the first time a shape
is seen and keeps the fastest for the process (never while a CUDA graph is being captured). The
candidates are few on purpose: ahead-of-time compilation proves every one of them on every target
(no spills, shared memory within the limit, tensor cores, wide loads).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch

from sslkernels.backends.triton import INTERPRETED

AUTOTUNE = os.environ.get("SSLKERNELS_AUTOTUNE", "0") == "1"
_tuned: dict[Hashable, NamedTuple] = {}


def pick(candidates: tuple, key: Hashable, launch: Callable[[NamedTuple], object]) -> NamedTuple:
    """The candidate to use: the first, or under ``SSLKERNELS_AUTOTUNE=1`` the fastest for ``key``.

    ``launch`` runs the kernel with a candidate and must be safe to repeat.
    """
    if not AUTOTUNE or INTERPRETED or len(candidates) == 1:
        return candidates[0]
    key = (candidates, key)
    if key not in _tuned:
        if torch.cuda.is_current_stream_capturing():
            return candidates[0]
        from triton.testing import do_bench

        times = [do_bench(lambda c=c: launch(c), return_mode="median") for c in candidates]
        _tuned[key] = candidates[times.index(min(times))]
    return _tuned[key]
