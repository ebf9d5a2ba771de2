"""``python -m benchmarks.distributed``: VICReg of one global batch, on more and more ranks.

Every number of ranks computes the same loss of the same N rows, forward and backward, over Gloo
with one thread per rank. What each rank has to do should fall as 1 / ranks; the rival, gathering
with gradients and the official formula on every rank, does all of it on each.

``wall`` is the slowest rank's median step; ``cpu`` its processor time per step, which a loaded
machine disturbs less, waiting for other ranks included as far as Gloo polls. The error is that of
value and gradient against one process in float64.
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

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import sslkernels as ssk
from sslkernels.report.speed import BOUND, RIVALS_BOUND, is_wrong, official_vicreg, two_views

_Loss = Callable[[Tensor, Tensor], Tensor]


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


def _step(loss: _Loss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(x, y)
    return value.detach(), torch.autograd.grad(value, (x, y))[0]


def _products(out: object, a: list[int], b: list[int], **_: object) -> int:
    return 2 * a[0] * a[1] * b[1]


def _measure(n: int, d: int, repeats: int, rival: bool) -> dict[str, dict[str, float]]:
    rank, world = dist.get_rank(), dist.get_world_size()
    whole = [z.detach() for z in two_views(n, d)]
    x, y = (z.chunk(world)[rank].clone().requires_grad_() for z in whole)
    exact = [z.double().requires_grad_() for z in whole]
    value, gradient = _step(ssk.vicreg_loss, *exact)
    gradient = gradient.chunk(world)[rank] * world
    del whole, exact
    jobs: dict[str, _Loss] = {"sslkernels": partial(ssk.vicreg_loss, group="world")}
    if rival:
        jobs["official, gathered"] = _official
    found = {}
    for name, loss in jobs.items():
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _products}) as c:
            got = _step(loss, x, y)
        error = max(
            float(abs(got[0] - value) / value),
            float((got[1] - gradient).norm() / gradient.norm()),
        )
        wall, cpu = [], []
        for _ in range(repeats):
            dist.barrier()
            start = time.perf_counter(), time.process_time()
            _step(loss, x, y)
            wall.append(time.perf_counter() - start[0])
            cpu.append(time.process_time() - start[1])
        slowest = torch.tensor([statistics.median(wall), statistics.median(cpu), error])
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        found[name] = dict(zip(("wall", "cpu", "error"), slowest.tolist(), strict=True))
        found[name]["product GFLOP per rank"] = c.get_total_flops() / 1e9
    return found


def _worker(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = _measure(args.rows, args.dim, args.repeats, not args.no_rival)
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
    parser.add_argument("--no-rival", action="store_true", help="leave the official formula out")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out:
        _worker(args)
        return
    if any(args.rows % ranks for ranks in args.ranks):
        parser.error("--rows must divide by each of --ranks")
    results, wrong = {}, False
    print(f"VICReg forward + backward, fp32, {args.rows} x {args.dim} over all ranks")
    print(f"{'ranks':>5}  {'':20}{'wall':>9}{'cpu':>9}{'GFLOP/rank':>12}{'error':>10}")
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder, "found.json"))
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(ranks), "-m", "benchmarks.distributed"]
            command += ["--rows", str(args.rows), "--dim", str(args.dim), "--out", out]
            command += ["--repeats", str(args.repeats), *["--no-rival"] * args.no_rival]
            subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
            results[ranks] = json.loads(Path(out).read_text())
        for name, row in results[ranks].items():
            # One rank runs the C++ kernels, whose products the counter does not see.
            row["wrong"] = is_wrong(row["error"], BOUND if name == "sslkernels" else RIVALS_BOUND)
            if row["wrong"]:
                wrong = True
                row["wall"] = row["cpu"] = None
                print(f"{ranks:>5}  {name:20}WRONG{row['error']:>35.1e}")
                continue
            flops = row["product GFLOP per rank"]
            work = f"{flops:.2f}" if flops else "-"
            print(
                f"{ranks:>5}  {name:20}{row['wall'] * 1e3:>6.0f} ms{row['cpu'] * 1e3:>6.0f} ms"
                f"{work:>12}{row['error']:>10.1e}"
            )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    sys.exit(wrong)


if __name__ == "__main__":
    main()
