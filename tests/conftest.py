import os
from collections.abc import Iterator

import pytest
import torch

# Before the extension loads: scratch that a kernel reads before it writes it is NaN.
os.environ.setdefault("SSLKERNELS_POISON", "1")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Every uninitialised tensor starts as NaN, or as the largest integer: an element that nobody
    wrote is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
