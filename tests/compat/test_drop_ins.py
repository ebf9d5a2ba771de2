"""What the originals take and torch allows around a call, for every drop-in of ``table.py``."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import warnings

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from sslkernels import compat
from tests.compat.compare import views
from tests.compat.table import TABLE
from tests.compat.test_torchmetrics import METRICS, OPTIONS

each = pytest.mark.parametrize("name", TABLE)
each_class = pytest.mark.parametrize("name", [name for name, of in TABLE.items() if of.is_class])
each_whole = pytest.mark.parametrize("name", [name for name, of in TABLE.items() if of.whole])


@pytest.fixture
def original(request):
    """Of a name of the table: the class or function that is stood in for."""

    def find(name):
        entry, (library, *_) = TABLE[name], name.split(".")
        if entry.formula:
            return entry.formula
        if library == "lightly":
            return getattr(request.getfixturevalue("lightly"), entry.ours.__name__)
        losses = pytest.importorskip("pytorch_metric_learning.losses")
        return getattr(losses, entry.ours.__name__)

    return find


def run(loss, x, y, tensors=(), upstream=None):
    """Value, and gradients of both views and of ``tensors``."""
    x, y = (z.detach().requires_grad_() for z in (x, y))
    value = loss(x, y)
    return [value.detach(), *torch.autograd.grad(value, [x, y, *tensors], upstream)]


def learned(weights, dtype=torch.float64):
    return {n: torch.nn.Parameter(torch.tensor(w, dtype=dtype)) for n, w in weights.items()}


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


def public_names(module):
    return {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    }


def test_every_public_name_has_an_entry():
    tested = {
        "torchmetrics": {type(make()).__name__ for make in METRICS.values()},
        "sklearn": {"NearestClassCenter"},  # by scikit-learn's own checks
    }
    for name in TABLE:
        library, _, loss = name.split(",")[0].partition(".")
        tested.setdefault(library, set()).add(loss)
    modules = [m.name for m in pkgutil.iter_modules(compat.__path__) if m.name[0] != "_"]
    found = {m: public_names(importlib.import_module(f"sslkernels.compat.{m}")) for m in modules}
    assert found == tested
    assert METRICS.keys() == OPTIONS.keys()


def parameters(signature):
    return [(p.name, p.default, p.kind) for p in signature.parameters.values()]


def parsed(text):
    scope = {}
    exec(f"def function{text}: ...", scope)
    return parameters(inspect.signature(scope["function"]))


@each
def test_signature(name, original):
    """Names, their order, defaults; what the original takes by ``**kwargs``, by name only."""
    entry = TABLE[name]
    pairs = [(entry.ours, entry.signature)]
    if entry.is_class:
        pairs.append((entry.ours.forward, entry.forward))
    for function, text in pairs:
        got, want = parameters(inspect.signature(function)), parsed(text)
        if want[-1][2] == inspect.Parameter.VAR_KEYWORD:
            got = [p for p in got if p[2] != inspect.Parameter.KEYWORD_ONLY]
        assert got == want
    if not entry.formula:
        theirs = original(name)
        assert parameters(inspect.signature(theirs)) == parsed(entry.signature)
        assert parameters(inspect.signature(theirs.forward)) == parsed(entry.forward)


@each
@pytest.mark.parametrize("shape", [(12, 20), (30, 20)], ids=["wide", "narrow"])
def test_tensors_as_weights(name, shape, original):
    """Each alone and all together, with the gradients that the original gives them."""
    entry = TABLE[name]
    x, y = views(shape, torch.float64)
    want = run(entry.build(original(name), entry.weights), x, y)
    close(run(entry.build(entry.ours, entry.weights), x, y), want)
    for chosen in [*([weight] for weight in entry.weights), list(entry.weights)]:
        tensors = learned({n: entry.weights[n] for n in chosen})
        got, eager = (
            run(entry.build(loss, entry.weights | tensors), x, y, tensors.values())
            for loss in (entry.ours, original(name))
        )
        close(got, eager)
        assert all(g != 0 for g in got[3:])
    column = {n: torch.tensor([[w]]) for n, w in entry.weights.items()}  # one number, float32
    value = entry.build(entry.ours, column)(x, y)
    torch.testing.assert_close(value.reshape(()), want[0], rtol=1e-6, atol=0)


@each
def test_what_is_no_number_is_refused(name):
    """No tensor is taken for its value, without a word and without a gradient."""
    x, y = views((12, 20))
    entry = TABLE[name]
    for option in entry.refused:
        with pytest.raises(TypeError, match=f"{option}: expected a number, got"):
            entry.build(entry.ours, {option: torch.tensor(1e-4, requires_grad=True)})(x, y)
    for option in entry.weights:
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            entry.build(entry.ours, {option: torch.ones(2, requires_grad=True)})(x, y)
        with pytest.raises(TypeError):
            entry.build(entry.ours, {option: "1"})(x, y)


@each_class
def test_attributes(name, original):
    """By the arguments' names, read at each call."""
    entry = TABLE[name]
    x, y = views((12, 20), torch.float64)
    want = run(entry.build(entry.ours, entry.weights), x, y)
    for loss in (entry.ours, original(name)):
        if not isinstance(loss, type):
            continue
        module = entry.construct(loss, {})
        for option, value in entry.weights.items():
            assert hasattr(module, option)
            setattr(module, option, value)
        close(run(entry.of_views(module), x, y), want)


@each_class
def test_state_dict(name, original):
    """Of the original's keys, those of weights that are Parameters among them."""
    entry = TABLE[name]
    for given in (entry.weights, learned(entry.weights)):
        ours = entry.ours(**entry.options, **given)
        keys = set() if given is entry.weights else set(given)
        assert ours.state_dict().keys() == dict(ours.named_parameters()).keys() == keys
        if not entry.formula:
            theirs = original(name)(**entry.options, **given).state_dict()
            assert theirs.keys() == keys
            ours.load_state_dict(theirs)


@each_class
def test_copies_and_modes(name):
    entry = TABLE[name]
    x, y = views((12, 20), torch.float64)
    want = run(entry.build(entry.ours, entry.weights), x, y)
    for given in (entry.weights, learned(entry.weights)):
        module = entry.construct(entry.ours, given)
        copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
        copies += [copy.deepcopy(module).eval(), copy.deepcopy(module).train()]
        for other in copies:
            close(run(entry.of_views(other), x, y), want)
        assert repr(module).startswith(type(module).__name__)


def numbers_and_tensors(entry):
    """Functions that give the loss afresh, and the tensors of it."""
    for given in (entry.weights, learned(entry.weights)):
        yield (
            lambda given=given: entry.build(entry.ours, given),
            ([] if given is entry.weights else list(given.values())),
        )


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(name, dtype):
    x, y = views((12, 20), dtype)
    for build, tensors in numbers_and_tensors(TABLE[name]):
        want = run(build(), x.double(), y.double())
        value, *grads = run(build(), x, y, tensors)
        assert value.dtype == torch.float32 and {g.dtype for g in grads[:2]} == {dtype}
        torch.testing.assert_close(value.double(), want[0], rtol=1e-5, atol=1e-6)
        with torch.autocast("cpu", dtype=dtype):
            inside = run(build(), x.float(), y.float(), tensors)
        assert all(map(torch.equal, inside, run(build(), x.float(), y.float(), tensors)))


@each
def test_around_a_call(name):
    """The same bits under another default device, of lazily negated views, in inference mode; and
    of an upstream gradient without strides."""
    x, y = views((12, 20))
    for build, tensors in numbers_and_tensors(TABLE[name]):
        want = run(build(), x, y, tensors)
        loss = build()
        with torch.device("meta"):
            elsewhere = run(loss, x, y, tensors)
        assert all(map(torch.equal, elsewhere, want))
        negated = [torch._neg_view(-z) for z in (x, y)]
        loss = build()
        got = [loss(*negated), *run(build(), *(z.clone() for z in negated), tensors)[1:]]
        assert all(map(torch.equal, got, want))
        with torch.inference_mode():
            assert torch.equal(build()(x, y), want[0])
        upstream = torch.tensor([2.0, 5.0])[:1].expand(3)[0].expand(())
        scaled = run(build(), x, y, tensors, upstream)
        torch.testing.assert_close(scaled[1:], [2 * g for g in want[1:]])
        loss = build()
        twice = run(lambda *v, loss=loss: loss(*v).expand(2, 3).sum(), x, y, tensors)
        torch.testing.assert_close(twice[1:], [6 * g for g in want[1:]])


@each
def test_transforms(name):
    """Gradients and directional derivatives of torch.func, of views and weights; or refused."""
    entry = TABLE[name]
    x, y = views((12, 20), torch.float64)
    tensors = learned(entry.weights)
    want = run(entry.build(entry.ours, tensors), x, y, tensors.values())
    inputs = (x, y, *(w.detach() for w in tensors.values()))

    def loss(x, y, *weights):
        return entry.build(entry.ours, dict(zip(entry.weights, weights, strict=True)))(x, y)

    everywhere = tuple(range(len(inputs)))
    if not entry.whole:
        for transform in (torch.func.grad(loss), lambda *a: torch.func.jvp(loss, a, a)):
            with pytest.raises(RuntimeError, match=r"autograd\.Function"):
                transform(*inputs)
        return
    close(list(torch.func.grad(loss, everywhere)(*inputs)), want[1:])
    g = torch.Generator().manual_seed(0)
    along = tuple(torch.randn(z.shape, generator=g, dtype=z.dtype) for z in inputs)
    slope = sum((a * b).sum() for a, b in zip(along, want[1:], strict=True))
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            close(list(torch.func.jvp(loss, inputs, along)), [want[0], slope])


SIZES = (30, 41, 12, 35, 28)


@each_whole
def test_graphs_hold_for_sizes_and_weights_that_change(name):
    """One graph of all of it for wide problems, one for narrow ones, whatever sizes and weights."""
    torch._dynamo.reset()
    entry = TABLE[name]
    counter = CompileCounterWithBackend("aot_eager")

    def loss(x, y, *weights):
        return entry.build(entry.ours, dict(zip(entry.weights, weights, strict=True)))(x, y)

    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=True)
    for factor, rows in enumerate(SIZES, 1):
        x, y = (z.requires_grad_() for z in views((rows, 20), torch.float64))
        weights = [w * (1 + factor / 8) for w in entry.weights.values()]
        got, want = (run(lambda *v, f=f, w=weights: f(*v, *w), x, y) for f in (compiled, loss))
        close(got, want)
    assert counter.frame_count <= 4 < len(SIZES)  # two attempts at each, where floats are inputs


@each_whole
def test_trace_holds_for_other_sizes(name):
    entry = TABLE[name]
    loss = entry.build(entry.ours, entry.weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks, which hold for what is traced
        traced = torch.jit.trace(loss, views((12, 20), torch.float64))
    for rows in (12, 16, 7):
        x, y = views((rows, 20), torch.float64)
        close(run(traced, x, y), run(loss, x, y))
