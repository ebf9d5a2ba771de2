import pytest
import torch

from sslkernels.backends import cpu


@pytest.fixture
def isa_limit():
    best = cpu._C.active_isa()
    yield cpu._C.set_isa_limit
    cpu._C.set_isa_limit(best)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
