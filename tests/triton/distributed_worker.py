"""What each rank runs in ``test_distributed.py``: ``python -m tests.triton.distributed_worker``.
VICReg and Barlow Twins of the global batch in Triton's kernels, against one process."""

from __future__ import annotations

import torch
import torch.distributed as dist

import sslkernels as ssk
from tests.losses.distributed_cases import Noted, split, views, with_grad


def check(name: str, loss, rows: list[int], d: int, dtype: torch.dtype) -> None:
    x, y = views(rows, d, dtype=dtype)
    own, world = split(rows), dist.get_world_size()
    with ssk.use_backend("triton"), Noted(*Noted.PRODUCTS) as products:
        value, *grads = with_grad(lambda x, y: loss(x, y, group="world"), x[own], y[own])
    assert not products.found, (name, products.found)
    wanted, *whole = with_grad(loss, x.double(), y.double())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-3
    assert abs(value - wanted) <= tolerance * abs(wanted), (name, d, dtype, value, wanted)
    for grad, want in zip(grads, whole, strict=True):
        want = world * want[own]
        error = (grad.double() - want).abs().max() / want.abs().max()
        assert grad.dtype == dtype and error <= tolerance, (name, d, dtype, error)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rows = [1, 6, 4, 5][: dist.get_world_size()]
    for name, loss in (("VICReg", ssk.vicreg_loss), ("Barlow Twins", ssk.barlow_twins_loss)):
        for d in (37, 5):
            for dtype in (torch.float32, torch.bfloat16):
                check(name, loss, rows, d, dtype)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
