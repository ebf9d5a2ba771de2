"""``python -m benchmarks.report``: the whole ``sslkernels report`` from files, start of the process
included.

*full report* is every statistic of one .npy file under several labelings. It is compared with what
no program could do without: reading the file twice, and multiplying its rows with the centers of
every labeling once in bfloat16. Both are measured in the same run. *ranks* is the same report by
``torchrun`` processes of one thread each. Peak memory is the largest resident set of the process,
its libraries and the pages of the mapped file included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

_ROWS = 16384  # written, read and multiplied at a time


def write_data(folder: Path, n: int, d: int, c: int, labelings: int) -> None:
    """Clustered rows, and labelings that do not follow from each other."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, c, n)
    means = 0.35 * rng.standard_normal((c, d), dtype=np.float32)
    z = np.lib.format.open_memmap(folder / "z.npy", "w+", np.float32, (n, d))
    for start in range(0, n, _ROWS):
        here = slice(start, min(start + _ROWS, n))
        z[here] = rng.standard_normal((here.stop - start, d), dtype=np.float32)
        z[here] += means[labels[here]]
    z.flush()
    np.save(folder / "y0.npy", labels)
    for k in range(1, labelings):
        np.save(folder / f"y{k}.npy", rng.integers(0, c, n))


def reading(folder: Path) -> float:
    """Seconds of one plain reading of the file."""
    z = np.load(folder / "z.npy", mmap_mode="c")  # torch wants pages that it could write
    start = time.perf_counter()
    for first in range(0, len(z), _ROWS):
        torch.from_numpy(np.asarray(z[first : first + _ROWS])).sum()
    return time.perf_counter() - start


def product(n: int, d: int, c: int, labelings: int) -> float:
    """Seconds of the bfloat16 products of all rows with the centers of all labelings."""
    x = torch.randn(_ROWS, d).bfloat16()
    centers = torch.randn(d, c).bfloat16()
    x @ centers
    times = []
    for _ in range(5):
        start = time.perf_counter()
        x @ centers
        times.append(time.perf_counter() - start)
    return statistics.median(times) * labelings * n / _ROWS


def report(folder: Path, labelings: int, ranks: int = 0) -> tuple[float, int]:
    """Seconds from start to end of one report, and the peak memory of its largest process."""
    command = [sys.executable, "-m"]
    env = dict(os.environ)
    if ranks:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
        env["OMP_NUM_THREADS"] = "1"
    command += ["sslkernels", "report", str(folder / "z.npy"), "--out", str(folder / "out")]
    for k in range(labelings):
        command += ["--labels", f"y{k}={folder / f'y{k}.npy'}"]
    start = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    # The largest of all children so far: reports only, and of one kind in a run of this program.
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--labelings", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--rank-rows", type=int, default=1_300_000, help="rows of the rank runs")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    n, d, c, k = args.rows, args.dim, args.classes, args.labelings
    found: dict[str, float] = {}
    # What maps the file runs elsewhere: a child's peak memory begins with its parent's.
    elsewhere = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        elsewhere.submit(write_data, folder, n, d, c, k).result()
        runs = [
            (elsewhere.submit(reading, folder).result(), product(n, d, c, k), *report(folder, k))
            for _ in range(args.repeats)
        ]
    read, multiply, seconds, memory = (
        statistics.median(column) for column in zip(*runs, strict=True)
    )
    floor = 2 * read + multiply
    found = {
        "read once": read,
        "bf16 product": multiply,
        "floor": floor,
        "report": seconds,
        "report / floor": seconds / floor,
        "peak memory": memory,
    }
    print(f"full report of {n:,} x {d} fp32, {k} labelings of {c} classes, start included")
    print(f"  reading the file once   {read:7.2f} s")
    print(f"  bf16 product alone      {multiply:7.2f} s")
    print(
        f"  report                  {seconds:7.2f} s, {seconds / floor:.2f}x of two readings "
        f"and the product; peak memory {memory / 1e9:.2f} GB"
    )
    if args.ranks:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            elsewhere.submit(write_data, folder, args.rank_rows, d, c, k).result()
            print(f"ranks of one thread, {args.rank_rows:,} x {d}, start included")
            for ranks in args.ranks:
                times = [report(folder, k, ranks)[0] for _ in range(args.repeats)]
                found[f"{ranks} ranks"] = statistics.median(times)
                first = found[f"{args.ranks[0]} ranks"]
                print(
                    f"  {ranks} x 1 thread            {found[f'{ranks} ranks']:7.2f} s, "
                    f"{first / found[f'{ranks} ranks']:.2f}x"
                )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
