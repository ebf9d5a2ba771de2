"""Ranks, rivals and spreads of every backend and kernel against long-double NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels.backends.cpu.class_projections import class_projections_forward as cpu_pass
from sslkernels.backends.torch.class_projections import class_projections_forward as torch_pass
from sslkernels.passes.selection import select
from tests.backends.class_projections_checks import (
    Answer,
    Problem,
    check,
    every_path,
    of,
)
from tests.inputs import DTYPES, LAYOUTS, Labelled, labelled, labelled_inputs, lay_out


@pytest.fixture(autouse=True)
def _limits(threads: Callable[[int], None], isa_limit: object) -> None:
    """What a test sets is set back."""
    threads(2)  # many small calls: more threads would mostly wait for each other


# ---- random inputs ----------------------------------------------------------------------------


@st.composite
def spoiled(draw: st.DrawFn) -> Problem:
    """Classes as the moments know them, then scaled, with coincident and empty centers and rows
    that are not finite."""
    p = of(draw(labelled_inputs()), counts=draw(st.booleans()))
    wide = p.z.dtype in (torch.float32, torch.float64)
    scale = draw(st.sampled_from([0, -40, 60] if wide else [0]))
    z, centers = torch.ldexp(p.z, torch.tensor(scale)), p.centers * 2.0**scale
    g = np.random.default_rng(draw(st.integers(0, 2**31)))
    n, c = len(z), len(centers)
    if draw(st.booleans()):
        centers[g.integers(c, size=c // 3)] = centers[g.integers(c, size=c // 3)].clone()
    if draw(st.booleans()) and n:  # rows that lie on a center, and centers that lie on a row
        near = torch.from_numpy(g.integers(n, size=n // 3))
        z[near] = centers[p.classes[near].clamp(min=0)].to(z.dtype)
        centers[g.integers(c)] = z[g.integers(n)].double()
    if draw(st.booleans()) and n:
        for value in (torch.nan, torch.inf, -torch.inf):
            z[g.integers(n), g.integers(z.shape[1])] = value
            centers[g.integers(c), g.integers(z.shape[1])] = value
    return Problem(lay_out(z, draw(st.sampled_from(LAYOUTS))), p.classes, centers, p.counts)


@settings(max_examples=100, deadline=None)
@given(p=spoiled())
def test_every_path_equals_the_plain_answer(p):
    check(p)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d", "c"), [(300, 30, 210), (250, 600, 100), (500, 129, 5)])
def test_several_tiles_and_steps(n, d, c, dtype):
    check(of(labelled(n, d, c, dtype=dtype, separation=0.3, ignored=0.1)))


@pytest.mark.parametrize("columns", ["even", "one large", "one run large"])
@pytest.mark.parametrize("d", [64, 128, 1000])
def test_rows_along_the_centers(d, columns):
    """Rows and centers all along one line: the largest sums that their lengths allow."""
    g = torch.Generator().manual_seed(0)
    along = torch.randn(d, generator=g, dtype=torch.float64).sign()
    if columns == "one large":
        along[d // 2] *= 1e3
    elif columns == "one run large":
        along[:128] *= 1e3
    place = torch.linspace(-1, 1, 40, dtype=torch.float64)[torch.randperm(40, generator=g), None]
    classes = torch.arange(120) % 40
    away = torch.tensor([-3.0, 0.3, 3.0], dtype=torch.float64).repeat_interleave(40)[:, None]
    z = (place[classes] + away) * along
    p = Problem(z.float(), classes, place * along, torch.full((40,), 3))
    answers = dict(every_path(p))
    for name, got in answers.items():
        assert torch.equal(got.rank, answers["torch"].rank), name
        assert torch.equal(got.alone, answers["torch"].alone), name
        torch.testing.assert_close(got.spread, answers["torch"].spread, rtol=1e-4, atol=0)


# ---- where digits are lost --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_collapsed_classes(dtype, offset):
    """Within-class spread of a millionth of the distances."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 40
    centers = torch.randn(40, 65, generator=g, dtype=torch.float64) * 1e4 + offset
    z = (centers[labels] + 1e-2 * torch.randn(400, 65, generator=g, dtype=torch.float64)).to(dtype)
    check(of(Labelled(z, labels, 40)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-9, 1e-13])
def test_groups_of_nearly_equal_centers(gap, dtype):
    """Means of a group differ by ``gap`` of the distance between groups, as do rows from them."""
    g = torch.Generator().manual_seed(0)
    base = torch.randn(3, 70, generator=g, dtype=torch.float64).repeat_interleave(45, 0)
    centers = base + gap * torch.randn(135, 70, generator=g, dtype=torch.float64)
    classes = torch.arange(135).repeat(3)
    z = centers[classes] + gap * torch.randn(405, 70, generator=g, dtype=torch.float64)
    check(Problem(z.to(dtype), classes, centers, torch.full((135,), 3)))


def test_near_ties_and_ties():
    """Rows halfway between their own center and another, but for a relative gap."""
    g = torch.Generator().manual_seed(0)
    centers = torch.randn(60, 40, generator=g, dtype=torch.float64)
    classes = torch.arange(60).repeat(12)
    gap = torch.logspace(-17, -5, 12, dtype=torch.float64).repeat_interleave(60)[:, None]
    z = centers[classes] + (0.5 + gap) * (centers[classes.roll(7)] - centers[classes])
    check(Problem(z, classes, centers, torch.full((60,), 10**9)))
    check(Problem(z.float(), classes, centers, torch.full((60,), 12)))
    exact = torch.tensor([[0.0], [2.0], [4.0], [2.0]], dtype=torch.float64)
    p = Problem(torch.tensor([[1.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 1, 3, 2]), exact, None)
    for name, got in every_path(p):
        assert got.rank.tolist() == [0, 1, 1, 1], name


def test_all_centers_equal():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(50, 20, generator=g)
    centers = torch.full((30, 20), 0.25, dtype=torch.float64)
    p = Problem(z, torch.arange(50) % 30, centers, torch.full((30,), 2))
    for name, got in every_path(p):
        assert torch.equal(got.rank, p.classes), name
        assert got.spread.isnan().all(), name
        assert not got.alone.any(), name


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-120, 1e-39, 1e39, 1e70])
def test_scales_of_float64(scale):
    data = labelled(120, 20, 9, dtype=torch.float64, separation=0.5)
    p = of(Labelled(data.z * scale, data.labels, 9))
    plain = dict(every_path(p))
    for got in plain.values():
        assert torch.equal(got.rank, plain["torch"].rank)
        assert torch.equal(got.alone, plain["torch"].alone)
    if 1e-70 < scale < 1e70:
        check(p)


@pytest.mark.parametrize("scale", [2.0**-149, 1e-44, 1e-38, 1e-20, 1e19, 1e37])
def test_scales_of_float32(scale):
    data = labelled(120, 20, 9, separation=0.5)
    check(of(Labelled(data.z * scale, data.labels, 9)))


def test_rows_of_many_scales():
    data = labelled(90, 20, 9, dtype=torch.float64)
    p = of(data)
    r = torch.logspace(-60, 60, 90, dtype=torch.float64)[:, None]
    check(p._replace(z=p.centers[p.classes] + r * torch.randn(90, 20, dtype=torch.float64)))


# ---- what must not spread ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_touches_no_other(value):
    data = labelled(200, 33, 8)
    p = of(data)
    spoiled = data.z.clone()
    rows = (data.labels == 3).nonzero().squeeze(1)[:2]
    spoiled[rows, 5] = value
    others = torch.ones(200, dtype=torch.bool)
    others[rows] = False
    clean = dict(every_path(p))
    for name, got in every_path(p._replace(z=spoiled)):
        assert (got.rank[rows] == 8).all() and not got.alone[rows].any(), name
        assert torch.equal(got.rank[others], clean[name].rank[others]), name
        assert torch.equal(got.alone[others], clean[name].alone[others]), name
        assert got.spread[3].isnan(), name
        keep = torch.arange(8) != 3
        # Blocks of rows move in torch's products, and with them the last digits.
        torch.testing.assert_close(
            got.spread[keep], clean[name].spread[keep], rtol=0 if name != "torch" else 1e-12, atol=0
        )


def test_smallest_shapes():
    one = torch.ones(1, 1, dtype=torch.float64)
    for rows, classes, centers in [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), torch.zeros(2, 3).double()),
        (torch.zeros(2, 1), torch.tensor([0, -1]), one),
        (torch.zeros(2, 1), torch.tensor([-1, -1]), one),
        (torch.zeros(2, 1), torch.tensor([0, 0]), one * torch.nan),
    ]:
        check(Problem(rows, classes, centers, None))
    single = Problem(torch.zeros(1, 1), torch.tensor([0]), one, torch.tensor([1]))
    for _, got in every_path(single):
        assert got.rank.tolist() == [0] and got.alone.tolist() == [False]
        assert got.spread.tolist() == [0.0]


def test_nothing_asked_nothing_given():
    p = of(labelled(100, 12, 6), counts=False)
    for name, got in every_path(p, directional=False):
        assert not got.alone.any() and (got.spread == 0).all(), name


def test_classes_out_of_range_are_refused():
    p = of(labelled(10, 3, 2))
    for bad in (2, -2):
        with pytest.raises(ValueError, match="class is out of range"):
            cpu_pass(p.z, torch.full((10,), bad), p.centers, None, True)


# ---- the rest of the contract -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "d", "c"),
    [(torch.float32, 40, 130), (torch.float64, 40, 130), (torch.float32, 70, 300)],
)
def test_same_bits_for_any_number_of_threads(dtype, d, c):
    p = of(labelled(1500, d, c, dtype=dtype, separation=0.2))
    answers = []
    for threads in (1, 2, 3, 7, 1):
        torch.set_num_threads(threads)
        answers.append(Answer(*cpu_pass(*p, True)))
    for got in answers[1:]:
        for a, b in zip(got, answers[0], strict=True):
            assert torch.equal(a, b)
    for a, b in zip(torch_pass(*p, True), torch_pass(*p, True), strict=True):
        assert torch.equal(a, b)


MEMORY = """
import torch
from sslkernels.backends.cpu import class_projections_forward as class_projections

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

n, d, c = 40_000, 256, 1000
z, classes = torch.randn(n, d), torch.arange(n) % c
centers = torch.randn(c, d, dtype=torch.float64)
class_projections(z[:2000], classes[:2000], centers, None, True)
before = status("VmRSS")
class_projections(z, classes, centers, None, True)
print(status("VmHWM") - before)
"""

POISON = """
import torch
from sslkernels.backends.cpu import class_projections_forward as class_projections

torch.manual_seed(0)
for n, d, c in ((33, 30, 20), (300, 33, 7), (60, 300, 210), (700, 81, 270)):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        z, classes = torch.randn(n, d).to(dtype), torch.arange(n) % c
        z[3] = torch.nan
        centers = torch.randn(c, d, dtype=torch.float64)
        centers[1] = centers[2] + 1e-4
        centers[4] = torch.inf
        counts = torch.full((c,), 3)
        print([t.tolist() for t in class_projections(z, classes, centers, counts, True)])
"""


def run(program: str, **environment: str) -> str:
    command = [sys.executable, "-c", program]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_a_few_blocks():
    assert float(run(MEMORY)) < 50  # MiB; N x C in float32 would be 160 MB


@pytest.mark.skipif(sys.platform != "linux", reason="tunes glibc")
def test_scratch_is_filled_before_it_is_read():
    assert run(POISON, MALLOC_PERTURB_="85") == run(POISON, MALLOC_PERTURB_="255")


def test_backends_serve_it():
    z = torch.zeros(2, 3)
    assert select("class_projections", z).__name__.endswith("cpu")
    with ssk.use_backend("torch"):
        assert select("class_projections", z).__name__.endswith("torch")
