"""The ranks that ``torchrun`` starts: they share the rows, rank 0 speaks for all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch

from sslkernels.cli import console, devices
from sslkernels.evaluation.ranks import Ranks

# Ranks wait for the slowest disk at the end of every reading, hours where one resumes further back.
# A rank that dies ends the others sooner: its connections close, and torchrun watches over it.
_PATIENCE = timedelta(days=2)
_LEAVING = timedelta(seconds=10)  # for the others to hear of an error


@contextlib.contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """The ranks of this run; one for a process that torchrun has not started.

    Within, only rank 0 prints. All ranks leave together; an error must have reached all of them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    gpus = device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_PATIENCE)
    world = Ranks("world")
    if world.rank:
        console.out.quiet = console.err.quiet = True
    try:
        yield world
    except Exception:
        # Gloo may abort a rank while others still talk to it.
        if not gpus:
            with contextlib.suppress(RuntimeError):
                dist.monitored_barrier(timeout=_LEAVING)
        raise
    dist.barrier()
    dist.destroy_process_group()


def device(wanted: str, ranks: Ranks) -> tuple[torch.device, str | None]:
    """As :func:`devices.choose`; each of several ranks has a GPU of its own."""
    where, note = devices.choose(wanted)
    if ranks.size > 1 and where.type == "cuda":
        if where.index is not None:
            raise console.OptionError(
                f"--device {wanted}: each rank takes a GPU of its own; write --device cuda"
            )
        where, _ = devices.choose(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(where)
    return where, note
