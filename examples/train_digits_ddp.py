"""Train an encoder of digits by VICReg in several processes, with one import changed.

    torchrun --nproc_per_node 2 examples/train_digits_ddp.py
    torchrun --nproc_per_node 4 examples/train_digits_ddp.py --loss sslkernels

Each rank takes its share of the batch, and the loss is that of the whole batch: the curve is that
of one process with all the rows, up to rounding. Gloo on CPUs; rank 0 prints.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from common import LABELS, criterion, digits, encoder, view
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

ONE_PROCESS = "one process"


def train(name: str, args: argparse.Namespace, images: torch.Tensor) -> tuple[list[float], float]:
    """The loss at every step, and the median seconds of a step."""
    alone = name == ONE_PROCESS
    model: torch.nn.Module = encoder(args.width, args.seed)
    if not alone:
        model = DistributedDataParallel(model)
    loss = criterion("sslkernels" if alone else name, gather_distributed=not alone)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(args.seed)  # the same on every rank
    share = args.batch // dist.get_world_size()
    mine = slice(None) if alone else slice(dist.get_rank() * share, (dist.get_rank() + 1) * share)
    losses, times = [], []
    for _ in range(args.steps):
        start = time.perf_counter()
        rows = torch.randperm(len(images), generator=generator)[: args.batch]
        both = torch.cat([view(images[rows], generator)[mine] for _ in range(2)])
        value = loss(*model(both).chunk(2))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
        shown = value.detach().clone()
        dist.all_reduce(shown)  # lightly's invariance term is that of the rank's own rows
        losses.append(shown.item() / dist.get_world_size())
    return losses, statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=["lightly", "sslkernels", "all"], default="all")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256, help="rows of all ranks together")
    parser.add_argument("--width", type=int, default=2048, help="dimensions that the loss sees")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    dist.init_process_group("gloo")
    if args.batch % dist.get_world_size():
        parser.error(
            f"--batch: expected a multiple of {dist.get_world_size()}, the number of ranks"
        )
    images, _ = digits()
    names = ["lightly", "sslkernels"] if args.loss == "all" else [args.loss]
    base, seconds = train(ONE_PROCESS, args, images)
    lines = [f"{'one process':16} {base[0]:6.2f}  {base[-1]:6.2f} {1e3 * seconds:8.1f}"]
    for name in names:
        losses, seconds = train(name, args, images)
        gap = max(abs(a - b) / b for a, b in zip(losses, base, strict=True))
        lines.append(
            f"{LABELS[name]:16} {losses[0]:6.2f}  {losses[-1]:6.2f} {1e3 * seconds:8.1f}  {gap:.1e}"
        )
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} ranks          first    last  ms/step  largest difference")
        print("\n".join(lines))
    dist.barrier()  # Gloo's threads may abort a rank that leaves before the others are done
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
