"""Every kernel compiles for every target without spills, within shared memory, with tensor cores in
its products and 128-bit loads in its streams; for which configurations: see aot.py."""

from __future__ import annotations

import json

import pytest

from sslkernels.backends.triton import INTERPRETED

if INTERPRETED:
    pytest.skip("compiles kernels: not when interpreting", allow_module_level=True)

from tests.triton import aot

# (target, kernel, label) of everything to compile.
KEYS = [
    (target, case.kernel.__name__, case.label)
    for target in aot.DEVICES
    for _, _, case in aot.cases(target)
]


@pytest.fixture(scope="module")
def compiled() -> dict[aot.Key, aot.Result | Exception]:
    """Everything that is not proven, compiled at once by a pool of processes."""
    return aot.compile_all(list(aot.DEVICES), wanted=aot.unproven())


def test_names_are_unique() -> None:
    assert len(set(KEYS)) == len(KEYS)


def test_what_a_kernel_is_compiled_for_can_be_written_down() -> None:
    """Triton writes it as JSON for the hooks that profilers install."""
    for _, _, case in aot.cases("sm90"):
        json.dumps(dict(case.constexprs))


def test_no_size_is_specialised() -> None:
    """An integer that Triton specialises recompiles its kernel for a ragged last batch."""
    kernels = {case.kernel: case for _, _, case in aot.cases("sm90")}
    for kernel, case in kernels.items():
        for parameter in kernel.params:
            if case.signature.get(parameter.name) in ("i32", "i64"):
                assert parameter.do_not_specialize, f"{kernel.__name__}: {parameter.name}"


@pytest.mark.parametrize("key", KEYS, ids=[" ".join(key) for key in KEYS])
def test_compiles_to_what_it_should(
    key: aot.Key, compiled: dict[aot.Key, aot.Result | Exception]
) -> None:
    result = compiled.get(key)
    if result is None:  # proven
        return
    if isinstance(result, Exception):
        raise result
    assert not result.faults()


def test_a_fingerprint_is_of_source_target_and_configuration() -> None:
    found = [aot.fingerprint(t, case) for t in aot.DEVICES for _, _, case in aot.cases(t)]
    assert len(set(found)) == len(KEYS)
