"""One thread, as in the tests of the losses; and the originals that the drop-ins are held to."""

from types import SimpleNamespace

import pytest
import torch

from examples import lightly_losses


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def lightly() -> SimpleNamespace:
    try:
        return lightly_losses.load()
    except ImportError as error:
        pytest.skip(f"nothing to compare with: {error}")
