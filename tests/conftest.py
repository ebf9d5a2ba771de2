import os
from collections.abc import Iterator

import pytest
import torch

# Before the extension loads: scratch that a kernel reads before it writes it is NaN.
os.environ.setdefault("SSLKERNELS_POISON", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--one-each",
        action="store_true",
        help="every test function with its first parameters only, without those marked slow",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--one-each"):
        return
    first: dict[str, pytest.Item] = {}
    for item in items:
        if not item.get_closest_marker("slow"):
            first.setdefault(item.nodeid.split("[")[0], item)
    config.hook.pytest_deselected(items=[i for i in items if i not in set(first.values())])
    items[:] = first.values()


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Every uninitialised tensor starts as NaN, or as the largest integer: an element that nobody
    wrote is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
