"""Moments of shards, merged over real processes."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

import sslkernels as ssk
from sslkernels import reference
from tests import forked
from tests.inputs import labelled

WORLD = 3


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )
    torch.set_num_threads(1)
    data = labelled(200, 6, 9, offset=1e5, ignored=0.1)
    mine = torch.arange(200) * WORLD // 200 == rank
    mine &= ~((data.labels == 4) & (rank != 1))  # class 4 on one rank only
    m = ssk.class_moments(data.z[mine], data.labels[mine], 9)
    m.all_reduce()
    torch.save(m.state_dict(), f"{folder}/{rank}.pt")
    dist.barrier()  # Gloo may abort a rank that leaves before the others are done
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
def test_ranks_agree_with_one_process(tmp_path):
    forked.calls(_rank, WORLD, str(tmp_path))
    data = labelled(200, 6, 9, offset=1e5, ignored=0.1)
    owner = torch.arange(200) * WORLD // 200
    kept = (data.labels != 4) | (owner == 1)
    want = reference.class_moments(data.exact()[kept], data.labels[kept].numpy(), 9)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    for state in states:
        for name, tensor in state.items():
            assert torch.equal(tensor, states[0][name])
        np.testing.assert_array_equal(state["counts"].numpy(), want.counts)
        filled = want.counts > 0
        np.testing.assert_allclose(
            state["mean"].numpy()[filled], want.means[filled], rtol=1e-7, atol=0
        )
        np.testing.assert_allclose(state["m2"].numpy(), want.m2, rtol=1e-5)
