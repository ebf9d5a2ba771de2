"""Every tile, warp and stage count of the package, from shape, dtype and device.

Each function returns the candidates for one kernel, best guess first. A launcher takes the first;
with the environment variable ``SSLKERNELS_AUTOTUNE=1`` it times all of them the first time a shape
is seen and keeps the fastest for the process (never while a CUDA graph is being captured). The
candidates are few on purpose: ahead-of-time compilation proves every one of them on every target
(no spills, shared memory within the limit, tensor cores, wide loads).

The unfused path, vendor products and separate reductions on any device, is the ``torch`` backend:
``sslkernels.use_backend("torch")`` takes it, and the GPU benchmarks time it beside the kernels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import torch

from sslkernels.backends.triton import INTERPRETED
from sslkernels.backends.triton.launch import Device

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


# ---- symmetric products and VICReg (gram.py, vicreg.py) ----

GROUP = 8  # tile rows that share the L2 cache, see gram.tile_of


class Operand(NamedTuple):
    """How the centered data enters a product."""

    dtype: torch.dtype  # of the copy that the product reads
    planes: int  # 2: hi and lo, multiplied as three tf32 products (gram.py)
    # "none", "tf32" (to nearest: the hardware would truncate), or two planes: "split" of tf32,
    # "halves" of fp16.
    rounding: str
    precision: str  # tl.dot's input_precision

    def __str__(self) -> str:
        if self.dtype == torch.bfloat16:
            return "bf16"
        if self.planes == 2:
            return "fp16x3" if self.dtype == torch.float16 else "tf32x3"
        return self.precision


def operand(dtype: torch.dtype, device: Device) -> Operand:
    """bf16 stays bf16. fp32 follows ``torch.get_float32_matmul_precision()``: "highest" is three
    tf32 products on CUDA and the matrix units' own fp32 on AMD, anything else one tf32 product.

    fp16 is multiplied as tf32, which has fp16's 11 bits without its range: centered values and
    entries of K overflow fp16 long before the loss does.
    """
    if dtype == torch.bfloat16:
        return Operand(torch.bfloat16, 1, "none", "ieee")
    if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":
        return exact(device)
    return _tf32(device)


def _tf32(device: Device) -> Operand:
    if device.backend == "hip" and not str(device.arch).startswith("gfx942"):
        return Operand(torch.float32, 1, "none", "ieee")
    return Operand(torch.float32, 1, "tf32", "tf32")


def exact(device: Device) -> Operand:
    if device.backend == "hip":
        return Operand(torch.float32, 1, "none", "ieee")
    return Operand(torch.float32, 2, "split", "tf32")


def operands(device: Device) -> tuple[Operand, ...]:
    """Every answer of :func:`operand` on a device."""
    return tuple(dict.fromkeys((operand(torch.bfloat16, device), _tf32(device), exact(device))))


class Gram(NamedTuple):
    """Square tiles of a symmetric product."""

    block: int
    block_k: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        return f"{self.block}x{self.block}x{self.block_k}"


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


def serves(op: Operand, dtype: torch.dtype) -> bool:
    """Whether :func:`operand` can answer ``op`` for inputs of ``dtype``."""
    if dtype == torch.bfloat16 or op.dtype == torch.bfloat16:
        return op.dtype == dtype
    return dtype == torch.float32 or (op.planes == 1 and op.rounding != "none")


class Stream(NamedTuple):
    """A tile of rows and columns that a memory-bound kernel walks over."""

    block_n: int
    block_d: int
    num_warps: int
    num_stages: int


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


def problems_at_once(count: int, size: int) -> int:
    """How many problems (of ``size`` bytes of operands each) share a launch: as many as stay in the
    L2 cache from the kernel that writes the operands to the one that reads them. It also bounds
    the workspace: large problems reuse one buffer in turn."""
    return max(1, min(count, (32 << 20) // size))


# ---- class moments (class_moments.py) ----

CLASS_TILE_ROWS = (64, 512)  # sorted rows per program: small batches need more programs
L2_SHARE = 16 << 20  # bytes of z that survive in the L2 cache of a data-center GPU (40 MB and up)


class ClassMoments(NamedTuple):
    """A program walks ``rows`` sorted rows, ``row_step`` at a time, over ``block_d`` columns."""

    rows: int
    row_step: int
    block_d: int
    num_warps: int
    block_tiles: int  # tiles per block of rows that K labelings share through L2

    def __str__(self) -> str:
        return f"{self.rows} rows, {self.row_step}x{self.block_d}"


def class_moments(n: int, d: int, classes: list[int], dtype: torch.dtype) -> ClassMoments:
    block_d = _class_columns(d, dtype)
    programs = -(-n // CLASS_TILE_ROWS[1]) * -(-d // block_d)
    # Two waves of the 16 or so one-warp programs that each of 132 processors holds.
    rows = CLASS_TILE_ROWS[0] if programs < 2 * 16 * 132 else CLASS_TILE_ROWS[1]
    tile = _class_tile(rows, block_d, dtype)
    num_tiles = -(-n // rows)
    if len(classes) > 1:
        shared = max(1, L2_SHARE // (block_d * dtype.itemsize * rows))
        blocks = -(-num_tiles // shared)
        # Per column: fp32 segment sums, written and read once, against what K - 1 reads would cost.
        segments = sum(min(n, blocks * c) for c in classes) * 2 * 4
        if 2 * segments < (len(classes) - 1) * n * dtype.itemsize:
            return tile._replace(block_tiles=min(shared, num_tiles))
    return tile._replace(block_tiles=num_tiles)


def class_moments_candidates(dtype: torch.dtype) -> tuple[ClassMoments, ...]:
    widths = sorted({_class_columns(d, dtype) for d in (1, 128, 256)})
    return tuple(_class_tile(r, w, dtype) for r in CLASS_TILE_ROWS for w in widths)


def _class_columns(d: int, dtype: torch.dtype) -> int:
    """One warp reads 512 contiguous bytes of a row, 16 per thread, or less of a shorter row."""
    if d <= 32:
        return 32
    return 128 if d <= 128 else 512 // dtype.itemsize


def _class_tile(rows: int, block_d: int, dtype: torch.dtype) -> ClassMoments:
    # 4 KB in flight per warp, so that 16 warps cover the latency of device memory.
    return ClassMoments(rows, min(32, 4096 // (block_d * dtype.itemsize)), block_d, 1, 1)


class Backward(NamedTuple):
    """A tile of the gradient: BLOCK_R steps of the contraction, or none without a product."""

    block_n: int
    block_d: int
    block_r: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        return f"{self.block_n}x{self.block_d}x{self.block_r}"


def backward_candidates(dtype: torch.dtype, device: Device, product: bool) -> tuple[Backward, ...]:
    if not product:
        return (Backward(16, 128, 16, 4, 1),)
    block_r = 128 // dtype.itemsize
    return (
        Backward(128, 128, block_r, 8, _stages(2 * 128 * 128, device, 4)),
        Backward(64, 64, block_r, 4, _stages(2 * 64 * 128, device, 3)),
    )


def backward(
    n: int, d: int, dtype: torch.dtype, device: Device, product: bool, aligned: bool
) -> tuple[Backward, ...]:
    """The small tile where the large one would leave processors idle, and for inputs without
    128-bit loads, whose addresses do not fit the registers beside a large tile."""
    large, *rest = backward_candidates(dtype, device, product)
    if not rest:
        return (large,)
    if not aligned:
        return tuple(rest)
    tiles = -(-n // large.block_n) * -(-d // large.block_d)
    return (*rest, large) if 2 * tiles < device.processors else (large, *rest)


# ---- nearest center (nearest_centers.py) ----

CENTER_SCAN = 1 << 24  # N C D up to which float64 distances cost less than the filter's launches
CENTER_SPANS = 8  # most spans of one set of centers
CENTER_WORKSPACE = 128 << 20  # bytes of candidates at a time; longer inputs go in parts


class CenterTile(NamedTuple):
    block_n: int
    block_c: int
    block_k: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        return f"{self.block_n}x{self.block_c}x{self.block_k}, {self.num_warps} warps"


class CenterTiles(NamedTuple):
    """The tile of the first pass and of the finer one over the rows that it leaves open."""

    first: CenterTile
    split: CenterTile


def center_tiles(n: int, dtype: torch.dtype, device: Device) -> CenterTiles:
    large, small = center_candidates(dtype, device)
    return small if n <= small.first.block_n * device.processors else large


def center_candidates(dtype: torch.dtype, device: Device) -> tuple[CenterTiles, CenterTiles]:
    """128 x 256 where the accumulator leaves the registers room: tensor cores that read both
    operands from shared memory (Hopper) or keep sums outside registers (Blackwell). fp32 rows take
    steps of 32 columns, 128 bytes: they pass through registers to become bf16."""
    wide = dtype == torch.float32
    if device.backend == "hip":
        large = CenterTile(64 if wide else 128, 128, 32, 8, 2)
        small, split = CenterTile(64, 128, 32, 4, 2), CenterTile(128, 64, 32, 8, 2)
    else:
        if int(device.arch) == 90 or (int(device.arch) > 90 and not wide):
            large = CenterTile(128, 256, 32 if wide else 64, 8, 4)
        else:
            large = CenterTile(128, 128, 32 if wide else 64, 8, 3)
        small, split = CenterTile(64, 128, 32, 4, 3), CenterTile(128, 64, 32, 8, 3)
    return CenterTiles(large, split), CenterTiles(small, split)


def center_span(
    n: int, d: int, table_rows: int, dtype: torch.dtype, tile: CenterTile, device: Device
) -> int:
    """Rows of the table per span: enough spans that the rows in flight fit L2 (the programs of a
    row tile run side by side) and that every processor has a program."""
    in_flight = device.processors * tile.block_n * d * dtype.itemsize
    wanted = max(-(-in_flight // L2_SHARE), device.processors // -(-n // tile.block_n))
    spans = max(1, min(wanted, CENTER_SPANS))
    tiles = table_rows // tile.block_c
    return -(-tiles // spans) * tile.block_c


# ---- pairs of class means (pairs.py) ----


def pairs(dtype: torch.dtype, device: Device) -> Gram:
    """128 x 128 tiles; 64 x 64 on AMD, where the epilogues of the larger tile spill. Whether either
    covers all classes makes no difference worth another configuration."""
    large, small = gram_candidates(dtype, device)
    return small if device.backend == "hip" else large


# ---- moments of unit rows (unit_row_moments.py) ----

UNIT = Stream(16, 128, 4, 1)  # two float64 sums per element of the tile: 64 registers


def unit_stretches(programs: int, rows: int, device: Device) -> int:
    """Into how many stretches to cut the rows: sixteen small programs per processor keep enough
    loads in flight; below 64 rows each, the partial sums would be what costs."""
    return max(1, min(16 * device.processors // programs, rows // 64, 65535))


# ---- projections on class means (projections.py) ----

HALVES = Operand(torch.float16, 2, "halves", "ieee")  # of rows brought to one length

PROJECTION_TABLE = 64 << 20  # bytes of products of all centers; beyond, by parts
# Bytes at a time, with that table and by parts: enough that launches do not decide the time.
PROJECTION_WORKSPACE = (128 << 20, 256 << 20)


def projections_tile(device: Device) -> CenterTile:
    """128 bytes of the contraction per row and step; two sums of a tile share the registers."""
    if device.backend == "hip":
        return CenterTile(64, 64, 64, 4, 2)
    if int(device.arch) < 90:
        return CenterTile(128, 64, 64, 8, 3)
    # 64 KB a stage; Blackwell's sums pass through shared memory, too.
    return CenterTile(128, 128, 64, 8, 3 if int(device.arch) == 90 else 2)


def projection_rows(
    n: int, c: int, row_bytes: int, tile: CenterTile, device: Device
) -> tuple[int, bool]:
    """(rows at a time, whether the products of all centers are made once).

    ``row_bytes`` is a row's operand; its products take 4 bytes per class and as many again if its
    part has a table of its own. Whole waves of programs, at least one.
    """
    whole = 4 * c * c <= PROJECTION_TABLE
    row_bytes += 4 * c * (1 if whole else 2)
    col_tiles = -(-c // tile.block_c)
    programs = PROJECTION_WORKSPACE[not whole] // row_bytes // tile.block_n * col_tiles
    waves = max(1, programs // device.processors)
    row_tiles = max(1, waves * device.processors // col_tiles)
    return min(row_tiles, -(-n // tile.block_n)) * tile.block_n, whole


# ---- logits and plain products (nt_xent.py, sigreg.py, products.py) ----

ROWS = Stream(16, 128, 4, 1)
WORKSPACE = 32 << 20  # bytes that stay in the L2 cache from the kernel that writes to its reader


def finish_rows(aligned: bool) -> Stream:
    """Without 128-bit loads every element of three inputs has an address of its own."""
    return ROWS if aligned else Stream(16, 32, 4, 1)


LARGEST = 128  # side of the largest tile of logits


def logits(m: int, op: Operand, device: Device) -> tuple[Gram, ...]:
    """Tiles of an m x m matrix: 64 x 64 where larger ones would leave processors idle."""
    *large, small = logits_candidates(op, device)
    few = (-(-m // LARGEST)) ** 2 < device.processors
    return (small,) if few else (*large, small)


def logits_candidates(op: Operand, device: Device) -> tuple[Gram, ...]:
    """128 x 128 and 64 x 64; the second alone where the first spills: on AMD, and where three
    products leave its exponentials no registers."""
    large, small = gram_candidates(op.dtype, device)
    full = device.backend == "hip" or (op.planes == 2 and int(device.arch) >= 100)
    return (small,) if full else (large, small)


def projections(op: Operand, device: Device) -> Gram:
    """64 x 64 and eight warps: a tile of projections, cosines and sines of two angles and their sum
    share the registers."""
    return gram_candidates(op.dtype, device)[1]._replace(num_warps=8)


def column_splits(side: int, device: Device) -> int:
    """Into how many parts to cut the columns of ``side`` tiles, for two programs per processor."""
    return max(1, min(2 * device.processors // side, side))


def rows_at_once(row_bytes: int) -> int:
    """How many rows of a matrix to form at a time: whole tiles."""
    return max(1, WORKSPACE // row_bytes // 128) * 128


def product(n: int, d: int, dtype: torch.dtype, device: Device) -> Backward:
    large, small = backward_candidates(dtype, device, True)
    tiles = -(-n // large.block_n) * -(-d // large.block_d)
    return small if 2 * tiles < device.processors else large
