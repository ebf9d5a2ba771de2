"""Every kernel compiles for every target without spills, within shared memory, with tensor cores in
its products and 128-bit loads in its streams; which launches those are: see aot.py."""

from __future__ import annotations

import json

import pytest

from sslkernels.backends.triton import INTERPRETED

if INTERPRETED:
    pytest.skip("compiles kernels: not when interpreting", allow_module_level=True)

from tests.triton import aot


@pytest.fixture(scope="module")
def compiled() -> dict[tuple[str, str, str], aot.Result | Exception]:
    """Everything that is not proven, compiled at once by a pool of processes."""
    return aot.compile_all(aot.DEVICES, wanted=aot.unproven())


@pytest.mark.parametrize("target", aot.DEVICES)
def test_compiles_to_what_it_should(target, compiled) -> None:
    own = {key: result for key, result in compiled.items() if key[0] == target}
    broken = {key: r for key, r in own.items() if isinstance(r, Exception)}
    assert not broken
    assert not {key: r.faults() for key, r in own.items() if r.faults()}


@pytest.mark.parametrize("target", aot.DEVICES)
def test_names_are_unique(target) -> None:
    """A table's row says which launch it is."""
    label_of = aot.labels(target)
    names = {(one.kernel.__name__, label_of[one.code]) for one in aot.launches(target)}
    assert len(names) == len(aot.launches(target))


def test_what_a_kernel_is_compiled_for_can_be_written_down() -> None:
    """Triton writes it as JSON for the hooks that profilers install."""
    for one in aot.launches("sm90"):
        json.dumps(list(one.constexprs.values()))


def test_no_size_is_specialised() -> None:
    """An integer that Triton specialises recompiles its kernel for a ragged last batch; one within
    a tuple always is."""
    for one in aot.launches("sm90"):
        for parameter in one.kernel.params:
            kind, where = one.signature[parameter.name], f"{one.kernel.__name__}: {parameter.name}"
            if kind in ("i32", "i64"):
                assert parameter.do_not_specialize, where
            elif isinstance(kind, tuple):
                assert all(each == "fp32" or each.startswith("*") for each in kind), where


def test_a_fingerprint_is_of_source_target_and_configuration() -> None:
    found = [aot.fingerprint(t, one) for t in aot.DEVICES for one in aot.cases(t)]
    assert len(set(found)) == len(found)
