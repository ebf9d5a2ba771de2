"""The ranks that ``torchrun`` starts: they share the rows, rank 0 speaks for all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch

from sslkernels.cli import console, devices
from sslkernels.cli.console import OptionError
from sslkernels.data import DataError
from sslkernels.evaluation.ranks import Ranks
from sslkernels.report.files import OutputError

# Ranks wait for the slowest disk at the end of every reading, hours where one resumes further back.
# A rank that dies ends the others sooner: its connections close, and torchrun watches over it.
_PATIENCE = timedelta(days=2)
_LEAVING = timedelta(seconds=10)  # for the others to hear of an error


def several() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def hush() -> None:
    """Only rank 0 prints, from its options on: what is wrong with them is so on every rank."""
    if several() and os.environ.get("RANK", "0") != "0":
        console.out.quiet = console.err.quiet = True


@contextlib.contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """The ranks of this run; one for a process that torchrun has not started.

    All ranks leave together: these errors reach all of them.
    """
    if not several():
        yield Ranks()
        return
    import torch.distributed as dist

    gpus = device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_PATIENCE)
    try:
        yield Ranks("world")
    except (DataError, OptionError, OutputError):
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
            raise OptionError(
                f"--device {wanted}: each rank takes a GPU of its own; write --device cuda"
            )
        where, _ = devices.choose(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(where)
    return where, note
