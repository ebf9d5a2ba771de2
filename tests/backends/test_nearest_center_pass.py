"""The rows-x-centers pass of every backend and kernel against float64 distances in NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels import reference
from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu.nearest_center import nearest_center_forward
from sslkernels.backends.torch.nearest_center import nearest_center_forward as torch_pass
from tests.inputs import DTYPES, LAYOUTS, lay_out
from tests.isa import DETECTED, WIDTHS
from tests.losses.common import limited_to

LOW_PRECISION = [isa for isa in DETECTED if isa not in WIDTHS]


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    threads, isa = torch.get_num_threads(), _C.active_isa()
    _C.set_isa_limit(_C.detected_isa())
    torch.set_num_threads(2)  # many small calls: more threads would mostly wait for each other
    yield
    torch.set_num_threads(threads)
    _C.set_isa_limit(isa)


def cpu_pass(z: torch.Tensor, centers: torch.Tensor, exact: bool, kernel: str = "") -> torch.Tensor:
    """As the machine and the shape suggest; else without a filter, or by that of a set."""
    if not kernel:
        return nearest_center_forward(z, centers, exact)
    if kernel == "float64":
        return nearest_center_forward(z, centers, exact, {"float64": 1})
    with limited_to(kernel):
        return nearest_center_forward(z, centers, exact, {"float64": 0, "bf16": 1})


def numbers(t: torch.Tensor) -> np.ndarray:
    return t.double().numpy()


def assert_nearest(got: torch.Tensor, z: torch.Tensor, centers: torch.Tensor) -> None:
    """The argmin of NumPy's float64 distances; another center only where the two distances agree to
    float64 rounding, which NumPy's own order of summation decides."""
    assert got.dtype == torch.int64 and got.shape == z.shape[:1]
    rows, mu, found = numbers(z), numbers(centers), got.numpy()
    want = reference.ncc_predict(rows, mu)
    np.testing.assert_array_equal(found == -1, want == -1)
    for i in np.flatnonzero(found != want):
        d2 = ((np.longdouble(rows[i]) - np.longdouble(mu[[found[i], want[i]]])) ** 2).sum(1)
        assert d2[0] <= d2[1] * (1 + 2.0**-51 * (z.shape[1] + 16)), i


def assert_all_exact(z: torch.Tensor, centers: torch.Tensor) -> None:
    """Every path gives the same answer, and it is the right one."""
    plain = cpu_pass(z, centers, True, "float64")
    assert_nearest(plain, z, centers)
    assert_nearest(torch_pass(z, centers, True), z, centers)
    for kernel in ("", *DETECTED):
        got = cpu_pass(z, centers, True, kernel)
        assert torch.equal(got, plain), (kernel, (got != plain).nonzero()[:5].tolist())


def random_problem(
    n: int, d: int, c: int, dtype: torch.dtype, *, seed: int = 0, offset: float = 0.0,
    separation: float = 1.0, spread: float = 1.0, scale: float = 1.0, wide: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Rows of the given spread around random centers; everything moved, then scaled."""
    g = torch.Generator().manual_seed(seed)
    centers = separation * torch.randn(c, d, generator=g, dtype=torch.float64)
    noise = spread * torch.randn(n, d, generator=g, dtype=torch.float64)
    z = centers[torch.randint(c, (n,), generator=g)] + noise
    centers, z = (centers + offset) * scale, (z + offset) * scale
    return z.to(dtype), centers if wide else centers.float()


# ---- random inputs ----------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = draw(st.sampled_from(DTYPES))
    half = dtype in (torch.float16, torch.bfloat16)
    scales = {
        torch.float16: [1.0, 1e-6, 6e3],
        torch.bfloat16: [1.0, 1e-39, 1e30],
        torch.float32: [1.0, 1e-39, 1e-42, 1e30, 1e37],
        torch.float64: [1.0, 1e-39, 1e30, 1e60, 1e-160, 1e-300],
    }
    z, centers = random_problem(
        draw(st.integers(0, 90)),
        draw(st.sampled_from([1, 2, 3, 7, 16, 31, 33, 64, 65, 130])),
        draw(st.integers(1, 150)),
        dtype,
        seed=draw(st.integers(0, 2**31)),
        offset=draw(st.sampled_from([0.0, 5.0] if half else [0.0, 1e2, 1e4, 1e6])),
        separation=draw(st.sampled_from([0.0, 1e-3, 1.0])),
        spread=draw(st.sampled_from([1e-3, 1.0, 30.0 if not half else 1.5])),
        scale=draw(st.sampled_from(scales[dtype])),
        wide=draw(st.booleans()),
    )
    g = np.random.default_rng(draw(st.integers(0, 2**31)))
    c = len(centers)
    if draw(st.booleans()):  # duplicates and copies of rows
        centers[g.integers(c, size=c // 2)] = centers[g.integers(c, size=c // 2)].clone()
        if len(z):
            centers[g.integers(c)] = z[g.integers(len(z))].to(centers.dtype)
    if draw(st.booleans()):  # empty classes, spoiled rows
        centers[g.random(c) < 0.2] = torch.nan
        centers[g.integers(c), g.integers(z.shape[1])] = -torch.inf
        for value in (torch.nan, torch.inf):
            if len(z):
                z[g.integers(len(z)), g.integers(z.shape[1])] = value
    return lay_out(z, draw(st.sampled_from(LAYOUTS))), centers


@settings(max_examples=300, deadline=None)
@given(problem=problems())
def test_every_path_equals_float64(problem):
    assert_all_exact(*problem)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, d, c", [(200, 1100, 260), (65, 513, 70), (700, 40, 1000)])
def test_several_panels_and_depth_blocks(n, d, c, dtype):
    assert_all_exact(*random_problem(n, d, c, dtype, separation=0.05))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(layout, dtype):
    z, centers = random_problem(150, 601, 80, dtype)
    assert_all_exact(lay_out(z, layout), centers)


def test_zero_strides():
    z, centers = random_problem(1, 65, 30, torch.float32)
    assert_all_exact(z.expand(100, 65), centers)
    assert_all_exact(z[:, :1].expand(1, 65), centers)


@pytest.mark.parametrize("level", DETECTED)
def test_instruction_set_limits(level):
    z, centers = random_problem(400, 200, 60, torch.float32, separation=0.05)
    plain = cpu_pass(z, centers, True, "float64")
    _C.set_isa_limit(level)
    for cuts in (None, {"float64": 1}, {"float64": 0, "bf16": 0}):
        assert torch.equal(nearest_center_forward(z, centers, True, cuts), plain)


# ---- offsets and scales -----------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1e4, 1e5, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_common_offset(offset, dtype):
    assert_all_exact(*random_problem(150, 256, 100, dtype, offset=offset, separation=0.1))


def test_offset_bfloat16():
    for offset in (3.0, 100.0, 1000.0):  # read raw, then shifted
        assert_all_exact(*random_problem(150, 256, 100, torch.bfloat16, offset=offset))


def test_float16_near_its_limit():
    z, centers = random_problem(150, 128, 40, torch.float16, scale=100.0, offset=640.0)
    assert z.isfinite().all() and z.max() > 64000
    assert_all_exact(z, centers)


@pytest.mark.parametrize(
    "scale", [2.0**-149, 1e-44, 1e-38, 1e-30, 1e-19, 1e19, 1e30, 3e37], ids=str
)
def test_scales_of_float32(scale):
    assert_all_exact(*random_problem(150, 96, 40, torch.float32, scale=scale))
    assert_all_exact(
        *random_problem(150, 96, 40, torch.float32, scale=scale, spread=3.0, wide=True)
    )


def test_rows_far_outside_the_centers():
    z, centers = random_problem(60, 64, 20, torch.float64, wide=True)
    z *= torch.logspace(-200, 140, 60, dtype=torch.float64)[:, None]
    assert_all_exact(z, centers)


def test_centers_of_mixed_scales():
    z, centers = random_problem(100, 64, 60, torch.float32)
    centers *= torch.logspace(-30, 15, 60)[:, None]
    z *= torch.logspace(-30, 15, 100)[:, None]
    assert_all_exact(z, centers)


def test_overflowing_distances_tie():
    z = torch.tensor([[1e200, 0.0], [-1e300, 1.0]], dtype=torch.float64)
    centers = torch.tensor([[torch.nan, 0.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch_pass(z, centers, True).tolist() == [1, 1]
    for kernel in ("", "float64", *DETECTED):
        assert cpu_pass(z, centers, True, kernel).tolist() == [1, 1]


# ---- ties and near ties -----------------------------------------------------------------------


@pytest.mark.parametrize("gap", [10.0**-k for k in range(6, 16)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_near_ties(gap, offset):
    """Rows halfway between two centers but for a relative gap, the nearer one named second."""
    g = torch.Generator().manual_seed(int(-np.log10(gap)))
    centers = torch.randn(40, 96, generator=g, dtype=torch.float64) + offset
    a, b = centers[0::2], centers[1::2]
    z = (a + b) / 2 + gap * (b - a)
    assert_all_exact(z, centers)
    assert_all_exact(z.float(), centers)
    assert_all_exact(z.float(), centers.float())
    if gap >= 1e-12 and offset == 0.0:
        assert torch.equal(cpu_pass(z, centers, True), torch.arange(1, 40, 2))


def errors_that_add_up() -> tuple[torch.Tensor, torch.Tensor]:
    """All elements of a row round to bf16 in the same direction, along center 2 and not along
    center 1, so that the filter's error comes near its bound."""
    d = 256
    signs = torch.randn(d, generator=torch.Generator().manual_seed(0)).sign()
    row = torch.zeros(2 * d, dtype=torch.float64)
    row[:d] = signs * (1 + 2.0**-8 - 2.0**-16)  # rounds to 1
    row[d:] = 1.0
    along, across = torch.zeros_like(row), torch.zeros_like(row)
    # Shorter by less than what rounding takes from x.along, so that x is nearer to it.
    along[:d], across[d:] = signs * (0.5 - 2.0**-9), 0.5
    centers = torch.stack([-along, across, along, -across])  # the mean is zero
    return row.expand(50, -1).float(), centers.float()


def test_errors_that_add_up():
    z, centers = errors_that_add_up()
    assert_all_exact(z, centers)
    assert (cpu_pass(z, centers, True) == 2).all()
    for kernel in LOW_PRECISION:  # or else this is no test
        assert (cpu_pass(z, centers, False, kernel) == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copies", [2, 7, 200])
def test_duplicate_centers_go_to_the_lowest(dtype, copies):
    z, few = random_problem(90, 65, 11, dtype)
    centers = few.repeat(copies, 1)[torch.randperm(11 * copies)]
    assert_all_exact(z, centers)
    assert torch.equal(
        (centers == centers[cpu_pass(z, centers, True)][:, None]).all(2).int().argmax(1),
        cpu_pass(z, centers, True),
    )


def test_all_centers_equal():
    z, centers = random_problem(60, 70, 100, torch.float32)
    centers[:] = centers[0]
    assert_all_exact(z, centers)
    assert (cpu_pass(z, centers, True) == 0).all()
    assert (cpu_pass(z, centers, False) == 0).all()


@pytest.mark.parametrize("ulps", [1, 3])
def test_centers_within_ulps(ulps):
    """More near ties than a row can note down, resolved only by the last bits of the centers."""
    z, centers = random_problem(60, 70, 300, torch.float32, offset=1e3)
    steps = torch.randint(
        -ulps, ulps + 1, centers.shape, generator=torch.Generator().manual_seed(1)
    )
    centers = centers[:1] + steps * 2.0**-14
    assert_all_exact(z, centers)


# ---- nothing to find --------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_rows_and_centers_that_are_not_finite(exact):
    z, centers = random_problem(200, 33, 20, torch.float32)
    z[3, 5], z[70, 0], z[199, 32] = torch.nan, torch.inf, -torch.inf
    centers[[0, 7, 19], [3, 0, 32]] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    spoiled = torch.zeros(200, dtype=torch.bool)
    spoiled[[3, 70, 199]] = True
    nothing = torch.full_like(centers, torch.nan)
    for kernel in ("", "float64", *DETECTED):
        got = cpu_pass(z, centers, exact, kernel)
        assert torch.equal(got == -1, spoiled)
        assert not np.isin(got.numpy(), [0, 7, 19]).any()
        assert (cpu_pass(z, nothing, exact, kernel) == -1).all()
    got = torch_pass(z, centers, exact)
    assert torch.equal(got == -1, spoiled)
    assert not np.isin(got.numpy(), [0, 7, 19]).any()
    assert (torch_pass(z, nothing, exact) == -1).all()


@pytest.mark.parametrize("exact", [True, False])
def test_smallest_shapes(exact):
    for run in (torch_pass, *(lambda *a, k=k: cpu_pass(*a, k) for k in ("", *DETECTED))):
        assert run(torch.zeros(0, 3), torch.zeros(2, 3), exact).shape == (0,)
        assert run(torch.ones(1, 1), torch.zeros(1, 1), exact).tolist() == [0]
        assert run(torch.ones(3, 1), torch.tensor([[-1.0], [0.75]]), exact).tolist() == [1] * 3


# ---- the rest of the contract -----------------------------------------------------------------


def test_same_answer_for_any_number_of_threads():
    z, centers = random_problem(999, 100, 130, torch.float32, separation=0.05)
    answers = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for exact in (True, False):
            for rows in (z, z[:5]):
                answers.append(cpu_pass(rows, centers, exact, DETECTED[-1]))
        answers.append(cpu_pass(z[:5], centers, True, "float64"))
    for got, want in zip(answers[5:], answers * 3, strict=False):
        assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_single_pass_is_nearly_nearest(dtype):
    z, centers = random_problem(300, 200, 100, dtype, separation=0.05)
    d2 = reference.squared_distances(numbers(z), numbers(centers))
    reach = np.linalg.norm(numbers(z), axis=1) * np.linalg.norm(numbers(centers), axis=1).max()
    for run in (torch_pass, *(lambda *a, k=k: cpu_pass(*a, k) for k in ("", *DETECTED))):
        got = run(z, centers, False).numpy()
        gap = d2[np.arange(300), got] - d2.min(1)
        assert (gap <= 2 * 2 * 2**-8 * reach).all()
