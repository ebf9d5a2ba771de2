"""Sums over pairs of class means, on every CPU path, against float64 differences in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

import sslkernels as ssk
from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu import mean_pairs as cpu
from sslkernels.backends.torch import mean_pairs as plain
from tests.class_means import Moments, moments, want_cdnv, want_cosines
from tests.isa import WIDTHS

CPU = (cpu.cdnv_sum, cpu.cosine_gap_sum)
ALL, NONE = {"few": 1 << 40}, {"few": 0}  # means whose products are in float64
# Name -> (CDNV, cosines, relative error of CDNV, error of a cosine)
PATHS = {
    "float64": (*(partial(f, cuts=ALL) for f in CPU), 1e-11, 1e-13),
    "float32": (*(partial(f, cuts=NONE) for f in CPU), 1e-6, 2.0**-22),
    "torch": (plain.cdnv_sum, plain.cosine_gap_sum, 1e-11, 1e-13),
}


@pytest.fixture(autouse=True)
def _limits(threads: Callable[[int], None], isa_limit: object) -> None:
    """What a test sets is set back."""
    threads(2)


def check_cdnv(data: Moments, *, times: float = 1.0, gap: float = 1.0) -> None:
    """``gap``: the least distance of two means, relative to their distance from the middle."""
    want, number = want_cdnv(*data)
    for name, (cdnv_sum, _, rtol, _) in PATHS.items():
        total, pairs = cdnv_sum(*data)
        assert total.dtype == torch.float64 and total.shape == () and pairs.dtype == torch.int64
        assert int(pairs) == number
        # The torch twin takes differences of centered means, which are rounded.
        rounded = 1e-16 / gap if name == "torch" else 0.0
        np.testing.assert_allclose(float(total), want, rtol=times * rtol + rounded, err_msg=name)


SHAPES = [(2, 1), (3, 5), (70, 33), (96, 128), (97, 300), (193, 257), (250, 64)]


@pytest.mark.parametrize("isa", WIDTHS)
@pytest.mark.parametrize(("c", "d"), SHAPES)
def test_every_path_and_shape(c: int, d: int, isa: str) -> None:
    _C.set_isa_limit(isa)
    data = moments(c, d, seed=c)
    check_cdnv(data)
    want, number = want_cosines(data[0], data[2])
    for name, (_, cosines, _, atol) in PATHS.items():
        total, pairs = cosines(data[0], data[2])
        assert total.dtype == torch.float64 and total.shape == () and int(pairs) == number
        np.testing.assert_allclose(float(total), want, rtol=0, atol=number * atol, err_msg=name)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e20, 1e-120, 1e120])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_offset_and_scale(offset: float, scale: float) -> None:
    check_cdnv(moments(110, 40, offset=offset, scale=scale), times=1 + offset)


@pytest.mark.parametrize("gap", [0.5, 1e-1, 1e-4, 1e-9])
@pytest.mark.parametrize("close", [2, 30, 130, 200])
def test_means_close_to_each_other(close: int, gap: float) -> None:
    """From one such pair, within a block or across, to blocks made of nothing else."""
    mean, m2, counts = moments(200, 50, empty=0.0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    mean[order[:close]] = mean[order[0]] + gap * mean[order[:close]]
    check_cdnv((mean, m2, counts), gap=gap)


def test_many_pairs_at_the_threshold() -> None:
    """Every product cancels as far as fp32 products are allowed to, and all terms have one sign."""
    g = torch.Generator().manual_seed(0)
    side = torch.ones(400, 1, dtype=torch.float64)
    side[::2] = -1
    mean = side * (1 + 0.5 * torch.rand(400, 600, generator=g, dtype=torch.float64))
    mean += 0.85 * torch.randn(400, 600, generator=g, dtype=torch.float64)
    check_cdnv((mean, torch.rand(400, generator=g, dtype=torch.float64), torch.ones(400).long()))


def test_terms_that_underflow_float32() -> None:
    """Classes around the common mean, and far ones that set the scale."""
    mean, m2, counts = moments(40, 20, scale=1e-25, empty=0.0)
    mean[0], mean[1] = 1.0, -1.0
    mean[2:] -= mean[2:].mean(0)
    check_cdnv((mean, m2, counts))


def test_coinciding_means() -> None:
    for c in (9, 150):
        mean, m2, counts = moments(c, 5, empty=0.0)
        mean[4] = mean[1]
        for name, (cdnv_sum, _, _, _) in PATHS.items():
            assert cdnv_sum(mean, m2, counts)[0] == torch.inf, name
        m2[[1, 4]] = 0.0
        for name, (cdnv_sum, cosines, _, _) in PATHS.items():
            assert cdnv_sum(mean, m2, counts)[0].isnan(), name
            assert cosines(torch.ones_like(mean), counts)[0].isnan(), name


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_class_that_is_not_finite(value: float) -> None:
    mean, m2, counts = moments(120, 7, empty=0.0)
    mean[3, 2] = value
    m2[3] = torch.nan
    for name, (cdnv_sum, cosines, _, _) in PATHS.items():
        assert cdnv_sum(mean, m2, counts)[0].isnan(), name
        assert cosines(mean, counts)[0].isnan(), name
    mean[3] = m2[3] = counts[3] = 0
    check_cdnv((mean, m2, counts))


def test_what_empty_classes_hold_does_not_matter() -> None:
    data = moments(150, 30)
    gone = data[2] == 0
    noisy = (data[0].masked_fill(gone.unsqueeze(1), 7e9), data[1].masked_fill(gone, 3.0), data[2])
    for name, (cdnv_sum, cosines, _, _) in PATHS.items():
        assert torch.equal(cdnv_sum(*data)[0], cdnv_sum(*noisy)[0]), name
        assert torch.equal(cosines(data[0], data[2])[0], cosines(noisy[0], noisy[2])[0]), name


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes(classes: int) -> None:
    mean, m2, counts = moments(4, 3)
    counts[classes:] = 0
    for cdnv_sum, cosines, _, _ in PATHS.values():
        for total, pairs in (cdnv_sum(mean, m2, counts), cosines(mean, counts)):
            assert (float(total), int(pairs)) == (0.0, 0)


def test_bits_do_not_depend_on_threads() -> None:
    mean, m2, counts = moments(500, 100)
    mean[20:120] = mean[20] + 1e-3 * mean[20:120]
    mean[counts == 0] = 0
    results = []
    for threads in (1, 2, 3, 4, 4):
        torch.set_num_threads(threads)
        for cdnv_sum, cosines, _, _ in (PATHS["float64"], PATHS["float32"]):
            results.append((float(cdnv_sum(mean, m2, counts)[0]), float(cosines(mean, counts)[0])))
    assert len(set(results[::2])) == len(set(results[1::2])) == 1


def test_public_functions_agree_across_backends() -> None:
    """Enough classes for float32 products by default."""
    g = torch.Generator().manual_seed(3)
    labels = torch.arange(2000) % 600
    z = torch.randn(600, 20, generator=g)[labels] + 0.1 * torch.randn(2000, 20, generator=g)
    m = ssk.class_moments(z, labels, 601)
    scatter = ssk.PooledScatter.empty(601, 20).update(z, labels)
    with ssk.use_backend("torch"):
        cdnv, collapse = ssk.cdnv(m), ssk.neural_collapse(scatter)
    with ssk.use_backend("cpu"):
        np.testing.assert_allclose(float(ssk.cdnv(m)), float(cdnv), rtol=1e-6)
        angles = ssk.neural_collapse(scatter).nc2_angles
    np.testing.assert_allclose(float(angles), float(collapse.nc2_angles), rtol=0, atol=1e-7)
