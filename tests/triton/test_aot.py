"""Every kernel in every configuration compiles for every target without spills, within shared
memory, with tensor cores in its products and 128-bit loads in its streams: see aot.py."""

from __future__ import annotations

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
def compiled() -> dict[tuple[str, str, str], aot.Result | Exception]:
    """Everything, compiled at once by a pool of processes."""
    return aot.compile_all(list(aot.DEVICES))


def test_names_are_unique() -> None:
    assert len(set(KEYS)) == len(KEYS)


@pytest.mark.parametrize("key", KEYS, ids=[" ".join(key) for key in KEYS])
def test_compiles_to_what_it_should(
    key: tuple[str, str, str], compiled: dict[tuple[str, str, str], aot.Result | Exception]
) -> None:
    result = compiled[key]
    if isinstance(result, Exception):
        raise result
    assert not result.faults()
