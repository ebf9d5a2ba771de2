import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from sslkernels import reference
from sslkernels.losses import SIGReg, sigreg_loss
from sslkernels.passes.selection import use_backend
from sslkernels.reference.sigreg import philox, slices
from tests.inputs import DTYPES
from tests.losses import common
from tests.losses.common import layouts, make_view


def eager_terms(z, num_slices, num_knots, t_min, t_max, seed, step):
    """The published formula, on the same slices."""
    directions = torch.from_numpy(slices(num_slices, z.shape[1], seed=seed, step=step)).to(z.dtype)
    t = torch.linspace(t_min, t_max, num_knots, dtype=z.dtype)
    target = torch.exp(-t.square() / 2)
    weight = torch.full_like(t, 2 * (t_max - t_min) / (num_knots - 1))
    weight[[0, -1]] /= 2
    angle = (z @ directions.T).unsqueeze(-1) * t
    real = (((angle.cos().mean(0) - target).square()) @ (weight * target)).mean() * len(z)
    imaginary = (angle.sin().mean(0).square() @ (weight * target)).mean() * len(z)
    return real + imaginary, real, imaginary


def check(z, num_slices=13, num_knots=17, t_min=0.0, t_max=3.0, seed=5, step=2**33 + 7, **options):
    names = ("num_slices", "num_knots", "t_min", "t_max", "seed")
    shared = dict(zip(names, (num_slices, num_knots, t_min, t_max, seed), strict=True))
    criterion = SIGReg(**shared)
    criterion.step.fill_(step)
    criterion.eval()
    array = z.double().numpy()
    n = len(array)
    # Angles carry the rounding of projections, t_max times that of the sum of |z| over columns.
    reach = t_max * np.abs(array).max() * math.sqrt(array.shape[1])
    common.check(
        (z,),
        criterion.forward_components,
        lambda a: eager_terms(a, num_slices, num_knots, t_min, t_max, seed, step),
        reference.sigreg_terms(array, **shared, step=step),
        lambda w: (reference.sigreg_grad(array, **shared, step=step, weights=w),),
        # Statistics are squares of small differences of means, all known to a rounding.
        term_scales=[math.sqrt(n) * max(1.0, reach)] * 3,
        gradient_scales=[max(1.0, reach) / math.sqrt(n)],
        **options,
    )


@settings(max_examples=80, deadline=None)
@given(
    options=common.view_options(max_rows=220),
    layout=layouts,
    num_slices=st.sampled_from([1, 2, 17, 100]),
    knots=st.sampled_from([(2, 0.0, 1.0), (17, 0.0, 3.0), (17, 0.2, 4.0), (3, -1.0, 1.0)]),
    backend=st.sampled_from(common.BACKENDS),
)
def test_equals_reference(options, layout, num_slices, knots, backend):
    # Projections far beyond 1 / t_max have random phases once rounded: keep offsets small.
    options |= {"offset": min(options["offset"], 1.0), "spread": min(options["spread"], 1.0)}
    with use_backend(backend):
        check(make_view(layout=layout, **options), num_slices, *knots)


@pytest.mark.parametrize("isa", common.ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: str(t)[6:])
@pytest.mark.parametrize("shape", [(1, 1), (3, 300), (97, 17), (300, 65)], ids=str)
def test_every_instruction_set(isa, dtype, shape):
    with use_backend("cpu"), common.limited_to(isa):
        check(make_view(*shape, 0, dtype=dtype), num_slices=110)


@pytest.mark.parametrize("isa", common.ISAS)
def test_many_knots_and_large_angles(isa):
    # The rotation's error grows with the knot; float64 shows it against what sincos alone would do.
    z = make_view(50, 6, 0, dtype=torch.float64, spread=300.0)
    options = {"num_slices": 9, "num_knots": 200, "t_max": 20.0}
    with use_backend("cpu"), common.limited_to(isa):
        got = float(sigreg_loss(z, **options))
    want = reference.sigreg_loss(z.numpy(), **options)
    assert got == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("size", [1e6, 1e12, 1e30])
def test_angles_past_all_precision_stay_bounded(backend, size):
    z = (size * make_view(16, 4, 0)).requires_grad_()
    loss = sigreg_loss(z, num_slices=8)
    assert 0 <= float(loss.detach()) < 16 * 8
    assert torch.autograd.grad(loss, z)[0].isfinite().all()


def test_philox_known_answers():
    # From the tests that its authors published with Random123.
    for counter, key, want in (
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ):
        got = philox(np.array(counter, dtype=np.uint64), key)
        assert " ".join(f"{int(word):08x}" for word in got) == want


def test_slices_are_isotropic_and_differ():
    drawn = slices(4000, 6)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(drawn.T @ drawn / 4000, np.eye(6) / 6, atol=0.02)
    np.testing.assert_allclose((drawn**4).mean(0), 3 / (6 * 8), rtol=0.1)  # of a uniform direction
    others = (slices(50, 6, step=1), slices(50, 6, seed=1), slices(50, 6, step=2**32))
    for other in (drawn[50:100], *others):
        assert np.abs((drawn[:50] * other).sum(1)).max() < 0.999
    np.testing.assert_array_equal(slices(60, 6), drawn[:60])


def test_module_counts_its_steps():
    z = make_view(30, 5, 0)
    options = {"num_slices": 8, "seed": 3}
    criterion = SIGReg(**options)
    first = [criterion(z) for _ in range(3)]
    assert [float(v) for v in first] == [float(sigreg_loss(z, **options, step=k)) for k in range(3)]
    assert len({float(v) for v in first}) == 3
    resumed = SIGReg(**options)
    resumed.load_state_dict(criterion.state_dict())
    assert resumed(z) == criterion(z)
    criterion.eval()
    assert criterion(z) == criterion(z) == sigreg_loss(z, **options, step=torch.tensor(4))


def test_backward_draws_the_slices_of_its_forward():
    z = make_view(30, 5, 0).requires_grad_()
    criterion = SIGReg(num_slices=8)
    losses = [criterion(z) for _ in range(2)]
    for k in (1, 0):
        (got,) = torch.autograd.grad(losses[k], z)
        want = torch.autograd.grad(sigreg_loss(z, num_slices=8, step=k), z)[0]
        assert torch.equal(got, want)


def test_scale_by_n(backend):
    z = make_view(30, 5, 0)
    whole, mean = (sigreg_loss(z, num_slices=8, scale_by_n=flag) for flag in (True, False))
    torch.testing.assert_close(whole, 30 * mean)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_give_nan(backend, bad):
    z = make_view(8, 5, 0)
    z[3, 2] = bad
    z.requires_grad_()
    loss = sigreg_loss(z, num_slices=8)
    assert loss.isnan()
    assert torch.autograd.grad(loss, z)[0].isnan().any()


def test_float16_beyond_its_range(backend):
    # Projections pass 65504.
    z = torch.full((4, 64), 6e4, dtype=torch.float16)
    assert sigreg_loss(z, num_slices=8).isfinite()


def test_gradcheck(backend):
    z = make_view(6, 4, 0, dtype=torch.float64).requires_grad_()
    criterion = SIGReg(num_slices=5, t_min=0.2).eval()
    assert torch.autograd.gradcheck(lambda a: tuple(criterion.forward_components(a)), z)


def test_opcheck():
    z = make_view(5, 3, 0)
    settings_ = (7, 5, 0.0, 3.0, 1)
    step = torch.tensor(3)
    opcheck(torch.ops.sslkernels.sigreg.default, (z.clone().requires_grad_(), step, *settings_))
    args = (torch.randn(7, 5, 2, dtype=torch.float64), z, step, *settings_)
    opcheck(torch.ops.sslkernels.sigreg_backward.default, (*args, "sslkernels.backends.cpu"))


def test_compiled_whole_without_recompiling():
    compiles = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    criterion, twin = SIGReg(num_slices=8), SIGReg(num_slices=8)
    compiled = torch.compile(criterion, fullgraph=True, backend=compiles)
    z = make_view(20, 6, 0).requires_grad_()
    for _ in range(3):
        got, want = compiled(z), twin(z)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, z), torch.autograd.grad(want, z))
    assert compiles.frame_count == 1 and int(criterion.step) == 3


Z = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (np.zeros((4, 3)), TypeError, "z: expected a torch tensor, got ndarray"),
        (Z.long(), TypeError, "z: expected float16, .* got int64"),
        (torch.zeros(2, 4, 3), ValueError, r"z: expected shape \[N, D\], got \[2, 4, 3\]"),
        (torch.zeros(0, 3), ValueError, r"z: needs at least one row, got shape \[0, 3\]"),
    ],
)
def test_bad_view(z, error, message):
    for call in (sigreg_loss, SIGReg().forward_components):
        with pytest.raises(error, match=message):
            call(z)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_slices": 0}, ValueError, "num_slices: expected a positive int, got 0"),
        ({"num_knots": 1}, ValueError, "num_knots: needs at least 2 knots, got 1"),
        ({"num_knots": 2.5}, TypeError, "num_knots: expected an int, got float"),
        ({"t_max": 0.0}, ValueError, "t_max: expected a number above t_min = 0, got 0"),
        ({"t_min": math.nan}, ValueError, "t_min: expected a finite number, got nan"),
        ({"seed": -1}, ValueError, r"seed: expected an int in \[0, 2\^63\), got -1"),
        ({"seed": "a"}, TypeError, "seed: expected an int, got str"),
    ],
)
def test_bad_options(options, error, message):
    for call in (lambda **o: sigreg_loss(Z, **o), SIGReg):
        with pytest.raises(error, match=message):
            call(**options)


def test_backends_agree_on_a_step_that_wrapped():
    results = []
    for name in common.BACKENDS:
        with use_backend(name):
            results.append(sigreg_loss(make_view(9, 5, 0), num_slices=4, step=torch.tensor(-3)))
    torch.testing.assert_close(*results)


def test_bad_step():
    with pytest.raises(ValueError, match="step: expected an int in"):
        sigreg_loss(Z, step=-1)
    for step in (1.0, torch.tensor(1.0), torch.tensor([1])):
        with pytest.raises(TypeError, match="step: expected an int"):
            sigreg_loss(Z, step=step)
