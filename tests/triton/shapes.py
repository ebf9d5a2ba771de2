"""Calls of every pass that between them reach every configuration its launchers can pick.

The shapes are ones that people train and evaluate with, each with what is next to it in kind: sizes
without 128-bit loads, batches too small to fill a device, one view, one labeling and several.
Tensors are of ``device="meta"``: no size costs memory.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sslkernels.backends import triton as passes
from sslkernels.numerics.views import wide
from sslkernels.passes.sigreg import SIGRegSettings
from sslkernels.passes.vicreg import Part, VICRegSettings

Call = Callable[[], object]

HALF = (torch.float16, torch.bfloat16)
DTYPES = (*HALF, torch.float32)
FULL = "highest"


def new(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@contextlib.contextmanager
def multiplied(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _vicreg(shape: tuple[int, ...], dtype: torch.dtype, views: int, **terms: bool) -> None:
    x, y = new(*shape, dtype=dtype), new(*shape, dtype=dtype) if views == 2 else None
    settings = VICRegSettings(25.0, 25.0, 1.0, **terms)
    grad, *kept = passes.vicreg_forward(x, y, settings)
    passes.vicreg_backward(grad, x, y, *kept, settings, True, views == 2)


def _vicreg_of_four(n: int, d: int, dtype: torch.dtype) -> None:
    """A rank's part of a batch: a quarter of the columns, and then of the rows; or of the rows."""
    part, settings = Part(n, d), VICRegSettings(25.0, 25.0, 1.0)
    z = new(1, n, d // 4, dtype=dtype) if wide(n, d) else new(1, n // 4, d, dtype=dtype)
    grad, *kept = passes.vicreg_forward(z, z, settings, part=part)
    passes.vicreg_backward(grad, z, z, *kept, settings, True, True, part=part)
    if wide(n, d):
        z, moments = new(1, n // 4, d, dtype=dtype), new(2, 1, d, dtype=torch.float64)
        rest = (moments, moments, new(0), settings._replace(covariance=False), True, True)
        passes.vicreg_backward(grad, z, z, *rest, part=part)


def _barlow_twins_of_four(n: int, d: int, dtype: torch.dtype) -> None:
    part, squares = Part(n, d), None if wide(n, d) else new(2, d, dtype=torch.float64)
    z = new(n, d // 4, dtype=dtype) if wide(n, d) else new(n // 4, d, dtype=dtype)
    grad, *kept = passes.barlow_twins_forward(z, z, 0.0051, 1e-5, part=part)
    options = (0.0051, True, True)
    passes.barlow_twins_backward(grad, z, z, *kept, *options, part=part, squares=squares)
    if wide(n, d):
        z, columns = new(n // 4, d, dtype=dtype), new(5, d, dtype=torch.float64)
        passes.barlow_twins_backward(grad, z, z, columns, new(0), *options, part=part)


def _barlow_twins(n: int, d: int, dtype: torch.dtype) -> None:
    x, y = new(n, d, dtype=dtype), new(n, d, dtype=dtype)
    grad, *kept = passes.barlow_twins_forward(x, y, 0.0051, 1e-5)
    passes.barlow_twins_backward(grad, x, y, *kept, 0.0051, True, True)


def _nt_xent(n: int, d: int, dtype: torch.dtype) -> None:
    x, y = new(n, d, dtype=dtype), new(n, d, dtype=dtype)
    grad, rows = passes.nt_xent_forward(x, y, 0.1)
    passes.nt_xent_backward(grad, x, y, rows, 0.1, True, True)
    own = n // 4, n // 4  # a rank's
    passes.nt_xent_forward(x, y, 0.1, own)
    passes.nt_xent_backward(grad, x, y, rows, 0.1, True, True, True, own, True)


def _sigreg(n: int, d: int, dtype: torch.dtype) -> None:
    z, step = new(n, d, dtype=dtype), new(dtype=torch.int64)
    for seed in 0, 1 << 40:
        settings = SIGRegSettings(1024, 17, 0.0, 3.0, seed)
        passes.sigreg_backward(passes.sigreg_forward(z, step, settings), z, step, settings)


def losses() -> Iterator[tuple[str, Call]]:
    """(fp32 matmul precision, call)."""
    vicreg = (
        *((1, 256, 8192), (1, 2048, 8192), (1, 4096, 8192)),  # wide: few tiles, many
        *((1, 64, 2048), (1, 300, 128), (1, 4096, 256), (1, 8192, 4096)),  # and narrow
        *((49, 256, 128), (1, 255, 1001), (1, 10_000, 333)),  # many problems; no wide loads
    )
    pairs = ((256, 8192), (2048, 8192), (4096, 2048), (64, 64), (255, 1001), (10_000, 333))
    rows = ((4096, 128), (256, 2048), (32, 64), (255, 1001), (4096, 333))
    cosines = ((2048, 512), (100_000, 384), (64, 64), (255, 1001))
    for dtype, precision in (
        *((d, FULL) for d in HALF),
        (torch.float32, FULL),
        (DTYPES[2], "high"),
    ):
        for shape, views in itertools.product(vicreg, (1, 2)):
            yield precision, lambda a=(shape, dtype, views): _vicreg(*a)
        for pass_, shapes in ((_barlow_twins, pairs), (_nt_xent, rows), (_sigreg, cosines)):
            for shape in shapes:
                yield precision, lambda f=pass_, a=(*shape, dtype): f(*a)
        for pass_ in _vicreg_of_four, _barlow_twins_of_four:
            for shape in ((2048, 8192), (4096, 2048), (255, 1001), (1002, 333)):
                yield precision, lambda f=pass_, a=(*shape, dtype): f(*a)
        for shape, views in itertools.product((vicreg[0], vicreg[-1]), (1, 2)):
            yield precision, lambda a=(shape, dtype, views): _vicreg(*a, covariance=False)
        for shape in vicreg[0], vicreg[-1]:
            only = {"covariance": False, "variance": False}
            yield precision, lambda a=(shape, dtype, 2), o=only: _vicreg(*a, **o)


def _class_moments(n: int, d: int, dtype: torch.dtype, classes: tuple[int, ...]) -> None:
    kinds = (torch.int64, torch.float64, torch.float64)
    shapes = [((c,), (c, d), (c,)) for c in classes]
    states = [tuple(new(*s, dtype=k) for s, k in zip(one, kinds, strict=True)) for one in shapes]
    labels = new(len(classes), n, dtype=torch.int64)
    passes.class_moments_update(new(n, d, dtype=dtype), labels, states, -100)


def _nearest(n: int, d: int, dtype: torch.dtype, c: int, centers: torch.dtype, exact: bool) -> None:
    passes.nearest_center_forward(new(n, d, dtype=dtype), new(c, d, dtype=centers), exact)


def _projections(n: int, d: int, dtype: torch.dtype, c: int, directional: bool) -> None:
    z, classes = new(n, d, dtype=dtype), new(n, dtype=torch.int64)
    centers, counts = new(c, d, dtype=torch.float64), new(c, dtype=torch.int64)
    passes.class_projections_forward(z, classes, centers, counts, directional)


def _pairs(c: int, d: int) -> None:
    mean, m2 = new(c, d, dtype=torch.float64), new(c, dtype=torch.float64)
    counts = new(c, dtype=torch.int64)
    passes.cdnv_sum(mean, m2, counts)
    passes.cosine_gap_sum(mean, counts)


def statistics() -> Iterator[Call]:
    both = (torch.float32, torch.float64), (True, False)
    for dtype in DTYPES:
        for n, d in itertools.product((2000, 1 << 23), (16, 128, 333, 2048)):
            for classes in (1000,), (10, 100, 1000):
                yield lambda a=(n, d, dtype, classes): _class_moments(*a)
            yield lambda a=(n, d), t=dtype: passes.unit_moments_forward(new(*a, dtype=t))
        # So many classes in so many blocks of rows that a key takes 64 bits.
        yield lambda a=(1 << 27, 512, dtype, (1 << 20, *[10] * 9)): _class_moments(*a)
        searches = (
            *((100, 512, 10), (100, 333, 10), (4096, 512, 1000), (50_000, 512, 50_000)),
            *((3001, 333, 1000), (4096, 520, 1000), (50_000, 520, 1000)),
        )
        for (n, d, c), how in itertools.product(searches, itertools.product(*both)):
            yield lambda a=(n, d, dtype, c, *how): _nearest(*a)
        for (n, d, c), directional in itertools.product(
            ((50_000, 512, 10), (50_000, 512, 21_841), (3001, 333, 1000)), (True, False)
        ):
            yield lambda a=(n, d, dtype, c, directional): _projections(*a)
    yield lambda: _nearest(1_281_167, 2048, torch.bfloat16, 1000, torch.float32, True)
    yield lambda: _projections(1_281_167, 2048, torch.bfloat16, 1000, True)
    for c, d in ((10, 512), (1000, 2048), (1000, 333), (50_000, 512)):
        yield lambda a=(c, d): _pairs(*a)


def record_all(record: Callable[[Call], list[Any]]) -> Iterator[Any]:
    """Everything that ``record`` returns for the calls."""
    for precision, call in losses():
        with multiplied(precision):
            yield from record(call)
    for call in statistics():
        yield from record(call)
