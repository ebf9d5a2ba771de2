import pytest
import torch

import sslkernels as ssk
from sslkernels.passes.selection import select
from sslkernels.statistics._dense import side_by_side


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_small_tasks_have_one_thread_and_large_ones_all(threads):
    sizes = [5, 4096, 2048, 7, 2049]
    found = side_by_side([(size, lambda s=size: (s, torch.get_num_threads())) for size in sizes])
    assert found == [(5, 1), (4096, 3), (2048, 1), (7, 1), (2049, 3)]
    assert torch.get_num_threads() == 3


def test_tasks_run_on_the_chosen_backend(threads):
    with ssk.use_backend("torch"):
        names = side_by_side([(1, lambda: select("cdnv_sum", torch.ones(1)).__name__)] * 3)
    assert names == ["sslkernels.backends.torch"] * 3


def test_an_error_comes_through_and_leaves_the_threads_as_they_were(threads):
    def fails():
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        side_by_side([(1, fails), (1, lambda: None)])
    assert torch.get_num_threads() == 3
