"""One set of kernel tests, two ways to run it.

* ``TRITON_INTERPRET=1 pytest tests/triton`` (the second process of ``make test``): Triton's
  interpreter runs the kernels on CPU tensors. Triton reads the variable when a kernel is defined,
  hence a process of its own.
* ``pytest -m gpu tests`` (``make test-gpu``): the same tests on the device, and those that only a
  device can answer (marked ``device_only``).

In an ordinary process without a GPU they are skipped; test_aot.py, which needs no device but does
need real compilation, runs there and only there.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from sslkernels.backends.triton import INTERPRETED

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/triton/" not in item.path.as_posix():
            continue
        if item.path.name == "test_aot.py":
            if INTERPRETED:
                item.add_marker(pytest.mark.skip(reason="compiles kernels: not when interpreting"))
            continue
        item.add_marker(pytest.mark.gpu)
        if INTERPRETED and item.get_closest_marker("device_only"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
        elif not INTERPRETED and not torch.cuda.is_available():
            reason = "no GPU; TRITON_INTERPRET=1 runs the kernels that need none"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device() -> torch.device:
    """Where the kernels run: the CPU under the interpreter, else the GPU."""
    return torch.device("cpu" if INTERPRETED else "cuda")
