"""One set of kernel tests, two ways to run it.

* ``TRITON_INTERPRET=1 pytest tests/triton`` (the second process of ``make test``): Triton's
  interpreter runs the kernels on CPU tensors. Triton reads the variable when a kernel is defined,
  hence a process of its own.
* ``pytest -m gpu tests`` (``make test-gpu``): the same tests on the device, and those that only a
  device can answer (marked ``device_only``).

In an ordinary process without a GPU they are skipped; COMPILED, which need no device but do need
Triton's compiler, run there and only there.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from sslkernels.backends.triton import INTERPRETED

COMPILED = ("test_aot.py", "test_recorder.py")

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/triton/" in item.path.as_posix() and item.path.name not in COMPILED:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True)
def runnable(request: pytest.FixtureRequest) -> None:
    """Skips what this process cannot run; here, so that a summary has one line for each reason."""
    if request.node.get_closest_marker("gpu") is None:
        return
    if INTERPRETED:
        if request.node.get_closest_marker("device_only"):
            pytest.skip("needs a GPU")
    elif not torch.cuda.is_available():
        pytest.skip("no GPU; TRITON_INTERPRET=1 runs the kernels that need none")


@pytest.fixture
def device() -> torch.device:
    """Where the kernels run: the CPU under the interpreter, else the GPU."""
    return torch.device("cpu" if INTERPRETED else "cuda")
