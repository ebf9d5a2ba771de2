"""The kernels on parts of a batch, as ranks take them."""

import torch

from sslkernels.backends import triton as kernels
from tests.backends import part_cases


@part_cases.both([torch.float32, torch.float16, torch.bfloat16])
def test_parts_make_the_whole(check, n, d, dtype) -> None:
    check(kernels, n, d, dtype)
