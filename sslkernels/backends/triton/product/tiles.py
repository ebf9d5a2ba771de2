"""Tile, warp and stage counts, from shape, dtype and device, of what several passes share; what one
pass chooses lies beside its kernels.

Each function returns the candidates for one kernel, best guess first. A launcher takes the first;
with the environment variable ``SSLKERNELS_AUTOTUNE=1`` it times all of them the first time a shape
is seen and keeps the fastest for the process (never while a CUDA graph is being captured; see
``tuning.py``). The candidates are few on purpose: ahead-of-time compilation proves every one of
them on every target (no spills, shared memory within the limit, tensor cores, wide loads).

The unfused path, vendor products and separate reductions on any device, is the ``torch`` backend:
``sslkernels.use_backend("torch")`` takes it, and the GPU benchmarks time it beside the kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from sslkernels.backends.triton.core.launch import Device

# ---- symmetric products, VICReg ----

L2_SHARE = 16 << 20  # bytes that survive in the L2 cache of a data-center GPU (40 MB and up)

GROUP = 8  # tile rows that share the L2 cache, see gram.tile_of


class Gram(NamedTuple):
    """Square tiles of a symmetric product."""

    block: int
    block_k: int
    num_warps: int
    num_stages: int

    @property
    def constexprs(self) -> dict[str, int]:
        return {"BLOCK": self.block, "BLOCK_K": self.block_k}


def _stages(bytes_per_stage: int, device: Device, most: int) -> int:
    """As many pipeline stages as fit, up to ``most`` and at least two.

    AMD's pipeline keeps one stage in registers, so two stages take one buffer.
    """
    if device.backend == "hip":
        return 2
    return max(2, min(most, device.shared_memory // bytes_per_stage))


def gram(m: int, dtype: torch.dtype, device: Device) -> tuple[Gram, ...]:
    """128 x 128 tiles, or 64 x 64 where one such tile covers the matrix."""
    large, small = gram_candidates(dtype, device)
    return (small,) if m <= small.block else (large, small)


def gram_candidates(dtype: torch.dtype, device: Device) -> tuple[Gram, Gram]:
    # 128 bytes of the contraction per row and step: one swizzled line of shared memory.
    block_k = 128 // dtype.itemsize
    return (
        Gram(128, block_k, 8, _stages(2 * 128 * 128, device, 4)),
        Gram(64, block_k, 4, _stages(2 * 64 * 128, device, 4)),
    )


def splits(programs: int, steps: int, device: Device) -> int:
    """Into how many parts to cut a contraction of ``steps`` steps: one program per processor, and
    at least eight steps each, so that the pipeline fills."""
    return max(1, min(device.processors // programs, steps // 8))


class Stream(NamedTuple):
    """A tile of rows and columns that a memory-bound kernel walks over."""

    block_n: int
    block_d: int
    num_warps: int
    num_stages: int

    @property
    def constexprs(self) -> dict[str, int]:
        return {"BLOCK_N": self.block_n, "BLOCK_D": self.block_d}


CENTER = Stream(64, 64, 8, 1)


def moments(device: Device) -> Stream:
    """One 128-bit load per thread and view in bf16. Four stages of them, of both views, keep 16 KB
    in flight per program, which one program per processor needs to cover memory's latency. AMD
    keeps the stages in registers, which hold two."""
    return Stream(device.warp_size // 2, 64, 4, 2 if device.backend == "hip" else 4)


def row_splits(programs: int, rows: int, device: Device) -> int:
    """Into how many parts to cut the rows: two programs per processor, but at least 512 rows each,
    below which the second launch costs more than the parallelism saves."""
    return max(1, min(2 * device.processors // programs, rows // 512))


class Backward(NamedTuple):
    """A tile of a gradient or a plain product, BLOCK_R steps of the contraction at a time."""

    block_n: int
    block_d: int
    block_r: int
    num_warps: int
    num_stages: int

    @property
    def constexprs(self) -> dict[str, int]:
        return {"BLOCK_N": self.block_n, "BLOCK_D": self.block_d, "BLOCK_R": self.block_r}


def backward_candidates(dtype: torch.dtype, device: Device) -> tuple[Backward, Backward]:
    block_r = 128 // dtype.itemsize
    return (
        Backward(128, 128, block_r, 8, _stages(2 * 128 * 128, device, 4)),
        Backward(64, 64, block_r, 4, _stages(2 * 64 * 128, device, 3)),
    )


# ---- what a caller may set ----


class Cuts(NamedTuple):
    """How the passes of a loss cut their work. What is None they choose, by the functions here;
    tests set it, so that every branch of every kernel runs at small sizes.

    Sides of tiles are powers of two, at least 16 and at most LARGEST.
    """

    moments: Stream | None = None  # column moments
    row_splits: int | None = None  # parts of the rows there
    center: Stream = CENTER  # operands
    rows: Stream | None = None  # unit rows and their gradients, sums over matrices
    gram: Gram | None = None  # symmetric products, logits, projections
    backward: Backward | None = None  # gradients, plain products
    splits: int | None = None  # parts of a contraction, or of the logits' columns
    at_once: int | None = None  # problems, or rows, or tiles of rows that share a workspace
    group: int = GROUP


CHOSEN = Cuts()


# ---- rows and centers (nearest_center/, class_projections/) ----


class CenterTile(NamedTuple):
    block_n: int
    block_c: int
    block_k: int
    num_warps: int
    num_stages: int

    @property
    def constexprs(self) -> dict[str, int]:
        return {"BLOCK_N": self.block_n, "BLOCK_C": self.block_c, "BLOCK_K": self.block_k}


# ---- logits, plain products ----

ROWS = Stream(16, 128, 4, 1)
WORKSPACE = 32 << 20  # bytes that stay in the L2 cache from the kernel that writes to its reader


LARGEST = 128  # side of the largest tile of logits


def rows_at_once(row_bytes: int) -> int:
    """How many rows of a matrix to form at a time: whole tiles."""
    return max(1, WORKSPACE // row_bytes // 128) * 128


def product(n: int, d: int, dtype: torch.dtype, device: Device) -> Backward:
    large, small = backward_candidates(dtype, device)
    tiles = -(-n // large.block_n) * -(-d // large.block_d)
    return small if 2 * tiles < device.processors else large
