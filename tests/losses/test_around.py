"""What torch allows around a call, for every public loss: a new one needs its line in LOSSES."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.autograd import forward_ad

from sslkernels import losses
from sslkernels.losses import BarlowTwinsLoss, NTXentLoss, SIGReg, VICRegLoss
from sslkernels.passes.selection import use_backend
from tests.losses.common import BACKENDS, make_view


def weighted(module):
    """Every term, each with an upstream gradient of its own."""
    return lambda *views: sum(
        (k + 1) * term for k, term in enumerate(module.forward_components(*views))
    )


SLICES = SIGReg(num_slices=20).eval()

# Of each public name: how many views it takes, and the loss.
LOSSES = {
    "BarlowTwinsLoss": (2, BarlowTwinsLoss()),
    "BarlowTwinsTerms": (2, weighted(BarlowTwinsLoss())),
    "NTXentLoss": (2, NTXentLoss()),
    "NTXentTerms": (2, weighted(NTXentLoss())),
    "SIGReg": (1, SLICES),
    "SIGRegTerms": (1, weighted(SLICES)),
    "VICRegLoss": (2, VICRegLoss()),
    "VICRegTerms": (2, weighted(VICRegLoss())),
    "barlow_twins_loss": (2, losses.barlow_twins_loss),
    "covariance_loss": (1, losses.covariance_loss),
    "invariance_loss": (2, losses.invariance_loss),
    "nt_xent_loss": (2, losses.nt_xent_loss),
    "sigreg_loss": (1, lambda z: losses.sigreg_loss(z, num_slices=20)),
    "variance_loss": (1, losses.variance_loss),
    "vicreg_loss": (2, losses.vicreg_loss),
}


def test_every_public_name_is_in_the_table():
    assert set(LOSSES) == set(losses.__all__)


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param][1]


@pytest.fixture
def views(request, loss):
    count = next(count for count, found in LOSSES.values() if found is loss)
    return tuple(make_view(9, 6, seed, spread=0.5) for seed in range(count))


def step(loss, views):
    """Value and gradients of fresh leaves, at the views' numbers."""
    leaves = [z.detach().clone().requires_grad_() for z in views]
    value = loss(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


def assert_same_bits(got, want):
    for a, b in zip(got, want, strict=True):
        assert a.device == b.device and torch.equal(a, b)


# --- derivatives ---------------------------------------------------------------------------------


def test_transforms_of_torch_func(backend, loss, views):
    value, *grads = step(loss, views)
    which = tuple(range(len(views)))
    assert_same_bits(torch.func.grad(loss, which)(*views), grads)
    got, pull = torch.func.vjp(loss, *views)
    assert_same_bits((got, *pull(torch.tensor(1.0))), (value, *grads))
    assert_same_bits(torch.func.jacrev(loss, which)(*views), grads)
    model = torch.nn.Linear(6, 5, bias=False)

    def of_parameters(parameters):
        return loss(*(torch.func.functional_call(model, parameters, z) for z in views))

    got = torch.func.grad(of_parameters)(dict(model.named_parameters()))["weight"]
    loss(*(model(z) for z in views)).backward()
    torch.testing.assert_close(got, model.weight.grad)


def test_vmap_is_item_by_item(backend, loss, views):
    batch = [torch.stack((z, 2 * z, z.flip(0))) for z in views]
    first = torch.func.grad(loss)
    for i, (value, grad) in enumerate(
        zip(torch.func.vmap(loss)(*batch), torch.func.vmap(first)(*batch), strict=True)
    ):
        want = step(loss, [z[i] for z in batch])
        assert_same_bits((value, grad), want[:2])


def test_forward_mode(backend, loss, views):
    views = [z.double() for z in views]
    tangents = [make_view(9, 6, 7 + k, dtype=torch.float64) for k in range(len(views))]
    value, *grads = step(loss, views)
    want = sum((g * t).sum() for g, t in zip(grads, tangents, strict=True))
    close = {"rtol": 1e-10, "atol": 0}
    got = torch.func.jvp(loss, tuple(views), tuple(tangents))
    torch.testing.assert_close(got, (value, want), **close)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(z, t) for z, t in zip(views, tangents, strict=True)]
        for grad_mode in (torch.enable_grad, torch.no_grad):
            with grad_mode():
                got = forward_ad.unpack_dual(loss(*duals))
                torch.testing.assert_close(got.tangent, want, **close)
                one = forward_ad.unpack_dual(loss(duals[0], *views[1:])).tangent
                torch.testing.assert_close(one, (grads[0] * tangents[0]).sum(), **close)
                assert forward_ad.unpack_dual(loss(*views)).tangent is None


def test_forward_mode_of_half_precision(loss, views):
    # The derivative is summed in float32: gradients are not rounded to float16 on the way.
    halves = [z.half() for z in views]
    tangents = tuple(make_view(9, 6, 7 + k, dtype=torch.float16) for k in range(len(views)))
    _, *grads = step(loss, [z.double() for z in halves])
    products = [g * t for g, t in zip(grads, tangents, strict=True)]
    _, got = torch.func.jvp(loss, tuple(halves), tangents)
    assert got.dtype == torch.float32
    size = sum(float(p.abs().sum()) for p in products)
    assert abs(float(got) - sum(float(p.sum()) for p in products)) <= 16 * 2**-24 * size


def test_upstream_gradient_of_stride_zero(backend, loss, views):
    _, *grads = step(loss, views)
    leaves = [z.clone().requires_grad_() for z in views]
    upstream = torch.tensor(0.25).expand(2, 2)
    assert_same_bits(torch.autograd.grad(loss(*leaves).expand(2, 2), leaves, upstream), grads)


# --- tensors -------------------------------------------------------------------------------------


def negated(z):
    """The numbers of z under a lazy minus sign."""
    lazy = torch.complex(torch.zeros_like(z), -z).conj().imag
    assert lazy.is_neg()
    return lazy


class Plain(torch.Tensor):
    pass


class Watching(torch.Tensor):
    calls = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.calls += 1
        return super().__torch_function__(function, types, args, kwargs or {})


KINDS = {
    "negated": negated,
    "parameter": torch.nn.Parameter,
    "subclass": lambda z: z.as_subclass(Plain),
    "with a __torch_function__": lambda z: z.as_subclass(Watching),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_tensors(backend, loss, views, kind):
    want = step(loss, views)
    leaves = [z.clone().requires_grad_() for z in views]
    value = loss(*(KINDS[kind](z) for z in leaves)) if kind != "parameter" else None
    if value is None:
        leaves = [torch.nn.Parameter(z) for z in views]
        value = loss(*leaves)
    assert_same_bits((value.detach(), *torch.autograd.grad(value, leaves)), want)


def test_inference_mode(backend, loss, views):
    value = step(loss, views)[0]
    with torch.inference_mode():
        assert torch.equal(loss(*(z.clone() for z in views)), value)
        made_here = [z.clone() for z in views]
    with torch.no_grad():
        assert torch.equal(loss(*made_here), value)


# --- surroundings --------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_another_default_device(backend, loss, views, device):
    want = step(loss, views)
    with torch.device(device):
        assert_same_bits(step(loss, views), want)
        _, along = torch.func.jvp(loss, tuple(views), tuple(views))
        assert along.device.type == "cpu"


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast(backend, loss, views, enabled):
    want = step(loss, views)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        assert_same_bits(step(loss, views), want)


def test_threads(loss, views):
    """Calls and their backward passes side by side, each thread with a backend of its own."""
    want = {}
    for name in BACKENDS:
        with use_backend(name):
            want[name] = step(loss, views)

    def call(name):
        with use_backend(name):
            return name, step(loss, views)

    with ThreadPoolExecutor(4) as pool:
        for name, got in pool.map(call, BACKENDS * 8):
            assert_same_bits(got, want[name])


MODULES = [
    VICRegLoss(gamma=0.8),
    BarlowTwinsLoss(0.1),
    NTXentLoss(0.3),
    SIGReg(num_slices=5, seed=4),
]
MODULES += [
    VICRegLoss(cov_coeff=torch.nn.Parameter(torch.tensor(2.0))),
    BarlowTwinsLoss(torch.nn.Parameter(torch.tensor(0.1))),
    NTXentLoss(torch.nn.Parameter(torch.tensor(0.3))),
]


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_copies_of_modules(module):
    views = [make_view(9, 6, seed) for seed in range(1 if isinstance(module, SIGReg) else 2)]
    module(*views)  # SIGReg counts it
    saved = io.BytesIO()
    torch.save(module.state_dict(), saved)
    saved.seek(0)
    loaded = copy.deepcopy(MODULES[MODULES.index(module)])
    for state in loaded.state_dict().values():
        state.zero_()
    loaded.load_state_dict(torch.load(saved))
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded]
    want = module(*views)
    for twin in copies:
        assert repr(twin) == repr(module)
        assert torch.equal(twin(*views), want)
