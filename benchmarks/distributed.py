"""``python -m benchmarks.distributed``: losses of one global batch, on more and more ranks.

Every number of ranks computes the same loss of the same N rows, forward and backward, over Gloo
with one thread per rank. What each rank has to do should fall as 1 / ranks.

``cpu`` is a rank's processor time per step, the mean over ranks of medians; ``own`` is what of it
its one thread takes outside the collectives, and ``sending`` the rest: Gloo's copies and sockets.
``alone`` is the processor time of one process with the whole batch, measured in turn with the
ranks' steps, on as many cores at once, and ``ratio`` is own / (alone / ranks), which should stay
within TARGET. ``wall`` is the slowest rank's median step. The error is that of value and gradients
against one process in float64. ``--rival`` adds the official VICReg formula on gathered views,
which does all of the work on each rank.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import sslkernels as ssk
from sslkernels.distributed import batch
from sslkernels.report.speed import (
    BOUND,
    RIVALS_BOUND,
    is_wrong,
    official_vicreg,
    step,
    two_views,
)

TARGET = 1.15  # at (1024, 8192), which are the defaults

_Loss = Callable[..., Tensor]
_LOSSES: dict[str, _Loss] = {"VICReg": ssk.vicreg_loss, "Barlow Twins": ssk.barlow_twins_loss}
_OFFICIAL = "VICReg, official, gathered"


class _Gather(torch.autograd.Function):
    """All ranks' rows; backward adds up what all ranks ask of this one's."""

    @staticmethod
    def forward(ctx: object, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[dist.get_rank()]


def _official(x: Tensor, y: Tensor) -> Tensor:
    return official_vicreg(*(_Gather.apply(z).flatten(0, 1) for z in (x, y)))


class _Collectives:
    """Adds up the time that this thread computes inside collectives."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for owner, name in (
            (batch, "gather_tensor"),
            (dist, "all_reduce"),
            (dist, "all_to_all_single"),
        ):
            setattr(owner, name, partial(self._timed, getattr(owner, name)))

    def _timed(self, collective: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        start = time.thread_time()
        try:
            return collective(*args, **keywords)
        finally:
            self.seconds += time.thread_time() - start


def _measure(n: int, d: int, repeats: int, rival: bool) -> dict[str, dict[str, float]]:
    rank, world = dist.get_rank(), dist.get_world_size()
    collectives = _Collectives()
    whole = two_views(n, d)
    own = [z.detach().chunk(world)[rank].clone().requires_grad_() for z in whole]
    jobs: dict[str, tuple[_Loss, _Loss]] = {
        name: (partial(loss, group="world"), loss) for name, loss in _LOSSES.items()
    }
    if rival:
        jobs[_OFFICIAL] = (_official, ssk.vicreg_loss)
    found = {}
    for name, (loss, alone) in jobs.items():
        value, *grads = step(alone, *(z.detach().double().requires_grad_() for z in whole))
        exact = [value, *(world * grad.chunk(world)[rank] for grad in grads)]
        pairs = zip(step(loss, *own), exact, strict=True)
        error = max(float((got - want).norm() / want.norm()) for got, want in pairs)
        del value, grads, exact, pairs
        figures = []
        for _ in range(repeats):
            dist.barrier()
            collectives.seconds = 0
            start = time.perf_counter(), time.process_time(), time.thread_time()
            step(loss, *own)
            end = time.perf_counter(), time.process_time(), time.thread_time()
            wall, cpu, computing = (b - a for a, b in zip(start, end, strict=True))
            computing -= collectives.seconds
            dist.barrier()
            before = time.thread_time()
            step(alone, *whole)
            figures.append((wall, cpu, computing, cpu - computing, time.thread_time() - before))
        medians = [statistics.median(column) for column in zip(*figures, strict=True)]
        largest = torch.tensor([*medians, error], dtype=torch.float64)
        mean = largest / world
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        dist.all_reduce(mean)
        names = ("wall", "cpu", "own", "sending", "alone", "error")
        found[name] = dict(zip(names, mean.tolist(), strict=True))
        found[name]["wall"], found[name]["error"] = float(largest[0]), float(largest[-1])
        found[name]["ratio"] = found[name]["own"] / (found[name]["alone"] / world)
    return found


def _worker(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = _measure(args.rows, args.dim, args.repeats, args.rival)
    if dist.get_rank() == 0:
        Path(args.out).write_text(json.dumps(found))
    dist.barrier()  # Gloo may abort a rank that leaves before the others are done
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rows", type=int, default=1024, help="of the global batch")
    parser.add_argument("--dim", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rival", action="store_true", help="the official formula, too")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out:
        _worker(args)
        return
    if any(args.rows % ranks for ranks in args.ranks):
        parser.error("--rows must divide by each of --ranks")
    results, wrong = {}, False
    print(f"forward + backward, fp32, {args.rows} x {args.dim} over all ranks, target {TARGET}")
    heads = ("wall", "cpu", "sending", "own", "alone")
    print(f"{'ranks':>5}  {'':26}" + "".join(f"{head:>12}" for head in heads) + "   ratio    error")
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder, "found.json"))
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(ranks), "-m", "benchmarks.distributed"]
            command += ["--rows", str(args.rows), "--dim", str(args.dim), "--out", out]
            command += ["--repeats", str(args.repeats), *["--rival"] * args.rival]
            subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
            results[ranks] = json.loads(Path(out).read_text())
        for name, row in results[ranks].items():
            row["wrong"] = is_wrong(row["error"], RIVALS_BOUND if name == _OFFICIAL else BOUND)
            if row["wrong"]:
                wrong = True
                print(f"{ranks:>5}  {name:26}WRONG{row['error']:>72.1e}")
                continue
            times = "".join(f"{row[head] * 1e3:>9.0f} ms" for head in heads)
            print(f"{ranks:>5}  {name:26}{times}{row['ratio']:>8.2f}{row['error']:>9.1e}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    sys.exit(wrong)


if __name__ == "__main__":
    main()
