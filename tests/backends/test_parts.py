"""The passes on parts of a batch, on the backends that take any CPU tensor."""

import pytest
import torch

from sslkernels.backends import cpu
from sslkernels.backends import torch as plain
from tests.backends import part_cases


@pytest.mark.parametrize("passes", [cpu, plain], ids=["cpu", "torch"])
@part_cases.both([torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_parts_make_the_whole(passes, check, n, d, dtype):
    check(passes, n, d, dtype)
