import numpy as np
import pytest
import torch
from hypothesis import given, settings

from sslkernels.backends.cpu import _C
from sslkernels.passes.selection import select, use_backend
from tests.inputs import labelled_inputs

BACKENDS = ("cpu", "torch")


def plain(z):
    x = z.double().numpy()
    length = np.sqrt((x * x).sum(1, keepdims=True))
    u = x / np.where(length == 0, 1, length)
    return u.mean(0), ((u - u.mean(0)) ** 2).sum(0)


def run(name, z):
    with use_backend(name):
        return select("unit_moments", z).unit_moments_forward(z)


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs())
def test_equals_plain_numpy(name, data):
    if not len(data.z):
        return
    for got, want in zip(run(name, data.z), plain(data.z), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_instruction_sets_and_tails(isa, dtype):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(301, 70, generator=g).to(dtype)[:, :67]
    best = _C.active_isa()
    try:
        _C.set_isa_limit(isa)
        got = run("cpu", z)
    except ValueError:
        pytest.skip(f"no {isa} here")
    finally:
        _C.set_isa_limit(best)
    for value, want in zip(got, plain(z), strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-12, atol=1e-15)


def test_a_first_row_far_from_all_others_costs_no_digits():
    g = torch.Generator().manual_seed(1)
    z = torch.ones(5000, 32, dtype=torch.float64)
    z += 1e-9 * torch.randn(5000, 32, generator=g, dtype=torch.float64)
    z[0] = -z[0]
    alone = z[1:]
    got = run("cpu", alone)[1]
    np.testing.assert_allclose(got, plain(alone)[1], rtol=1e-6)
    assert float(run("cpu", z)[1].sum()) == pytest.approx(plain(z)[1].sum(), rel=1e-12)


@pytest.mark.parametrize("name", BACKENDS)
def test_zeros_stay_zero_and_what_is_not_finite_is_nan(name):
    z = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    mean, _ = run(name, z)
    np.testing.assert_allclose(mean, [0.3, 0.4])
    for value in (torch.nan, torch.inf):
        broken = z.clone()
        broken[0, 0] = value
        assert run(name, broken)[1].isnan().all()


def test_same_bits_for_any_number_of_threads():
    z = torch.randn(4097, 129)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            results.append(run("cpu", z))
    finally:
        torch.set_num_threads(before)
    for mean, m2 in results[1:]:
        assert torch.equal(mean, results[0][0]) and torch.equal(m2, results[0][1])


@pytest.mark.parametrize("first", [0, 1])
def test_rows_of_subnormal_numbers(first):
    z = torch.tensor([[5e-324, 0.0], [3e-310, -4e-310], [3.0, 4.0]], dtype=torch.float64)[first:]
    magnified = torch.where(z.abs() < 1, z * 2.0**1000, z)
    for got, want in zip(run("cpu", z), plain(magnified), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-15)
