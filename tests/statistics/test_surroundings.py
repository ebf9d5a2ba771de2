"""Every statistic, whatever torch lets a caller set around it and hand to it: the same result, or
an error that names what is wrong."""

from __future__ import annotations

import contextlib
import io
import pickle
import threading

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import sslkernels as ssk
from sslkernels import statistics
from tests.statistics.every import CALLS, LABELS, C, D, N, Z, assert_same, leaves

every = pytest.mark.parametrize("name", CALLS)
RESULTS = {name for name in statistics.__all__ if hasattr(getattr(statistics, name), "_fields")}


def plainly(name, z=Z, labels=LABELS):
    return CALLS[name](z, labels)


def public():
    """Every public function and public method of an accumulator."""
    for name in set(statistics.__all__) - RESULTS:
        target = getattr(statistics, name)
        if not isinstance(target, type):
            yield name, target
            continue
        for owner in target.__mro__[:-1]:
            for key, member in vars(owner).items():
                if callable(member) and (key == "__init__" or not key.startswith("_")):
                    yield f"{owner.__name__}.{key}", member


def test_every_public_name_has_an_entry():
    assert set(CALLS) | RESULTS == set(statistics.__all__)


def test_no_public_callable_goes_around_the_gate():
    assert [name for name, call in public() if not hasattr(call, "__wrapped__")] == []


# What a caller sets.


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS = {
    "device": lambda: torch.device("meta"),
    "default device": lambda: default_device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "default dtype": lambda: default_dtype(torch.float64),
    "dual level": forward_ad.dual_level,
}


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@every
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_caller(name, setting, backend, monkeypatch):
    arrays = Z.numpy(), LABELS.numpy()
    with ssk.use_backend(backend):
        want = plainly(name)
        # The entries make their own small tensors on the CPU; the library's are under test.
        weight = torch.eye(C, D)
        monkeypatch.setattr("tests.statistics.every.torch.eye", lambda *_, **__: weight)
        with SETTINGS[setting]():
            got = plainly(name)
            assert_same(plainly(name, *arrays), want)
    assert_same(got, want)
    assert {t.device.type for t in leaves(got)} == {"cpu"}


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_evaluate_of_arrays_in_memory(setting, backend):
    options = {
        "superclasses": {"half": [0, 0, 1, 1]},
        "z_view": Z.flip(1),
        "z_test": Z + 0.25,
        "labels_test": LABELS,
        "few_shot": [2],
        "weight": {"labels": torch.eye(C, D)},
    }
    with ssk.use_backend(backend):
        want = ssk.evaluate(Z, LABELS, **options).rows()
        with SETTINGS[setting]():
            got = ssk.evaluate(Z, LABELS, **options).rows()
    assert len(want) > 30
    assert repr(got) == repr(want)  # to the last bit, NaN equal to NaN


def test_several_threads_at_once():
    want = {name: plainly(name) for name in CALLS}
    failed = []

    def work(shift):
        names = list(CALLS)
        try:
            for name in names[shift:] + names[:shift]:
                assert_same(plainly(name), want[name])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(shift,)) for shift in (0, 5, 10, 15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_compiled_calls_ignore_autocast_too():
    want = ssk.uniformity(Z)
    compiled = torch.compile(ssk.uniformity, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(compiled(Z), want, rtol=1e-6)


# What a caller hands over.


class Subclass(torch.Tensor):
    pass


def misaligned(t):
    """The same numbers three bytes off."""
    data = bytearray(3) + t.contiguous().numpy().tobytes()
    flat = torch.frombuffer(data, dtype=t.dtype, offset=3, count=t.numel())
    assert flat.data_ptr() % t.element_size() or t.element_size() == 1
    return flat.view(t.shape)


def inference(t):
    with torch.inference_mode():
        return t.clone()


TENSORS = {
    "negated lazily": lambda z: torch._neg_view(-z),
    "imaginary part of a conjugate": lambda z: torch.complex(torch.zeros_like(z), -z).conj().imag,
    "recording": lambda z: z.clone().requires_grad_(),
    "parameter": lambda z: torch.nn.Parameter(z.clone()),
    "subclass": lambda z: z.as_subclass(Subclass),
    "inference tensor": inference,
    "misaligned": misaligned,
    "transposed": lambda z: z.T.contiguous().T,
    "every other column": lambda z: torch.stack([z, z * torch.nan], 2).flatten(1)[:, ::2],
    "reversed twice": lambda z: z.flip(0).flip(0),
}


@every
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_every_kind(name, kind):
    z = TENSORS[kind](Z.double())
    want = plainly(name, Z.double())
    got = plainly(name, z)
    # Other strides may take another way through the rows, in float64 here.
    assert_same(got, want, rtol=1e-13 * N * D)
    for leaf in leaves(got):
        assert type(leaf) is torch.Tensor
        assert not leaf.requires_grad


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_dtypes(name, dtype):
    # float32 at least in every sum of N or D terms; CDNV and NC1 are ratios of two such sums.
    rtol = 4 * (N + D) * torch.finfo(torch.float32).eps
    assert_same(plainly(name, Z.to(dtype)), plainly(name, Z.double()), rtol=rtol)


def test_dual_numbers_give_no_tangent():
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(Z, torch.ones_like(Z))
        got = ssk.uniformity(dual)
        assert forward_ad.unpack_dual(got).tangent is None
    assert_same(got, ssk.uniformity(Z))


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    """A field of packed records: no stride is a multiple of its size."""
    records = np.zeros(a.shape, dtype=[("pad", "u1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


ARRAYS = {
    "plain": lambda a: a,
    "read-only": read_only,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "field of records": unaligned,
    "misaligned": lambda a: np.frombuffer(b"abc" + a.tobytes(), a.dtype, offset=3).reshape(a.shape),
    "masked nowhere": lambda a: np.ma.masked_array(a),
    "Fortran order": np.asfortranarray,
}


@every
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_kind(name, kind):
    change = ARRAYS[kind]
    got = plainly(name, change(Z.double().numpy()), change(LABELS.numpy()))
    assert_same(got, plainly(name, Z.double()), rtol=1e-13 * N * D)
    if name[0].islower() and name not in ("class_moments", "cdnv"):  # they answer with tensors
        assert all(isinstance(leaf, (np.ndarray, np.generic)) for leaf in leaves(got))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", ">i8", "u1", "u2", "u4", "u8", ">u8"])
def test_labels_of_every_integer_dtype(dtype):
    labels = LABELS.abs() % C
    want = ssk.class_moments(Z, labels, C).m2
    assert_same(ssk.class_moments(Z, labels.numpy().astype(dtype), C).m2, want)


@pytest.mark.parametrize(
    "kind", ["negated lazily", "subclass", "inference tensor", "misaligned", "reversed twice"]
)
def test_labels_of_every_kind(kind):
    for name in ("class_moments", "ncc_accuracy", "directional_cdnv", "PooledScatter"):
        assert_same(plainly(name, Z, TENSORS[kind](LABELS)), plainly(name))


class Boxed:
    """Something that only speaks DLPack."""

    def __init__(self, t):
        self._t = t

    def __dlpack__(self, **kwargs):
        return self._t.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._t.__dlpack_device__()


def test_anything_with_dlpack():
    want = ssk.class_moments(Z, LABELS, C).m2
    assert_same(ssk.class_moments(Boxed(Z), Boxed(LABELS), C).m2, want)


# What is refused, by name.


def wrapped_by_vmap():
    """A tensor that a transform has left behind."""
    kept = []
    torch.vmap(lambda z: kept.append(z) or z)(Z)
    return kept[0]


def masked_array():
    return np.ma.masked_array(Z.numpy(), mask=Z.numpy() > 0)


REFUSED = {
    "sparse": (lambda: Z.to_sparse(), "dense tensor, got layout sparse_coo"),
    "csr": (lambda: Z.to_sparse_csr(), "dense tensor, got layout sparse_csr"),
    "nested": (lambda: torch.nested.nested_tensor([Z, Z]), "dense tensor, got a nested one"),
    "jagged": (
        lambda: torch.nested.nested_tensor([Z, Z], layout=torch.jagged),
        "plain tensor, got NestedTensor",
    ),
    "masked tensor": (
        lambda: torch.masked.masked_tensor(Z, Z > 0),
        "plain tensor, got MaskedTensor",
    ),
    "meta": (lambda: Z.to("meta"), "holds values, got one on meta"),
    "functorch": (wrapped_by_vmap, "got a wrapper of a torch.func transform"),
    "quantized": (
        lambda: torch.quantize_per_tensor(Z, 0.1, 0, torch.qint8),
        "float32 or float64, got qint8",
    ),
    "masked array": (masked_array, r"got a masked array with \d+ of them masked"),
    "object": (lambda: Z.numpy().astype(object), "dtype object holds no numbers"),
    "list": (lambda: Z.tolist(), "expected a torch tensor or a NumPy array, got list"),
}

TAKE_Z = {
    "alignment": lambda z: ssk.alignment(z, Z),
    "class_moments": lambda z: ssk.class_moments(z, LABELS, C),
    "few_shot_ncc": lambda z: ssk.few_shot_ncc(z, LABELS, C, shots=1),
    "ncc_predict": lambda z: ssk.ncc_predict(z, Z[:C]),
    "centers": lambda z: ssk.ncc_predict(Z, z),
    "NormalizedMoments": lambda z: ssk.NormalizedMoments.empty(D).update(z),
    "spectrum": lambda z: ssk.spectrum(z),
    "uniformity": lambda z: ssk.uniformity(z),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of its prototypes
@pytest.mark.parametrize("taker", TAKE_Z)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_plain_numbers_is_refused(kind, taker):
    make, reason = REFUSED[kind]
    argument = {"alignment": "x", "centers": "centers"}.get(taker, "z")
    with pytest.raises(TypeError, match=f"^{argument}: .*{reason}"):
        TAKE_Z[taker](make())


def test_masked_labels_are_refused():
    labels = np.ma.masked_array(LABELS.numpy(), mask=LABELS.numpy() == 1)
    with pytest.raises(TypeError, match=r"labels: .*7 of them masked"):
        ssk.class_moments(Z, labels, C)
    with pytest.raises(ssk.data.DataError, match=r"labels: .*7 of them masked"):
        ssk.evaluate(Z, labels)


@pytest.mark.parametrize("call", ["class_moments", "ncc_accuracy", "neural_collapse"])
@pytest.mark.parametrize("as_given", [np.asarray, torch.from_numpy])
def test_labels_past_int64_do_not_wrap(call, as_given):
    labels = np.zeros(N, dtype=np.uint64)
    labels[7] = 2**64 - 100
    other = {"ncc_accuracy": Z[:C]}.get(call, C)
    with pytest.raises(ValueError, match="labels: row 7 holds 18446744073709551516"):
        getattr(ssk, call)(Z, as_given(labels), other)
    m = ssk.class_moments(Z, LABELS, C)
    with pytest.raises(ValueError, match="parents: row 7 holds 18446744073709551516"):
        ssk.ClassMoments.empty(N, D).coarsen(as_given(labels))
    assert int(m.counts.sum()) == N - 1


TRANSFORMS = {
    "grad": lambda f: torch.func.grad(f)(Z),
    "vjp": lambda f: torch.func.vjp(f, Z),
    "jvp": lambda f: torch.func.jvp(f, (Z,), (Z,)),
    "jacrev": lambda f: torch.func.jacrev(f)(Z),
    "vmap": lambda f: torch.vmap(f)(torch.stack([Z, Z])),
}


@every
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_are_refused(name, transform):
    with pytest.raises(RuntimeError, match=r"^\w+(\.\w+)?: .*torch.func transforms"):
        TRANSFORMS[transform](lambda z: leaves(plainly(name, z))[0].sum())


def test_state_is_not_touched_from_within_a_transform():
    m = ssk.class_moments(Z, LABELS, C)
    before = m.state_dict()

    def merged(z):
        m.merge(m)
        return z.sum()

    with pytest.raises(RuntimeError, match=r"^ClassMoments\.merge: "):
        torch.func.grad(merged)(Z)
    assert_same(list(m.state_dict().values()), list(before.values()))


def test_functions_and_results_pickle():
    for name in CALLS:
        function = getattr(ssk, name)
        assert pickle.loads(pickle.dumps(function)) is function
        result = plainly(name)
        assert_same(pickle.loads(pickle.dumps(result)), result)
        file = io.BytesIO()
        torch.save(leaves(result), file)
