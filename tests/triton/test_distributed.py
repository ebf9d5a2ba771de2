"""Losses over ranks in Triton's interpreter: processes, Gloo, tensors on the CPU."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from sslkernels.backends.triton import INTERPRETED
from tests import forked


@pytest.mark.skipif(not INTERPRETED, reason="ranks share tensors of the CPU")
@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch is built without Gloo"
)
def test_ranks() -> None:
    for status, _, err in forked.ranks(["-m", "tests.triton.distributed_worker"], 3):
        assert status == 0, err[-4000:]
