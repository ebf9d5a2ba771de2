"""Choosing among a kernel's tiles: the first, or the fastest under ``SSLKERNELS_AUTOTUNE=1``."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from sslkernels.backends.triton import INTERPRETED

AUTOTUNE = os.environ.get("SSLKERNELS_AUTOTUNE", "0") == "1"
_tuned: dict[Hashable, Any] = {}

Tile = TypeVar("Tile")


def bucket(n: int) -> int:
    """The next power of two: sizes that share one autotuned choice."""
    return 1 << max(n - 1, 0).bit_length()


def pick(candidates: tuple[Tile, ...], key: Hashable, launch: Callable[[Tile], object]) -> Tile:
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
    choice: Tile = _tuned[key]
    return choice
