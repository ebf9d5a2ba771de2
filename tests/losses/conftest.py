"""One thread unless a test asks for more: its cases are small, and test machines are shared."""

import pytest
import torch

from sslkernels.passes.selection import use_backend
from tests.losses.common import BACKENDS


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Every backend that takes CPU tensors, chosen."""
    with use_backend(request.param):
        yield request.param
