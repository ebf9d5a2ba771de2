"""``python -m benchmarks.gpu``: the GPU workloads, timed by device events, beside their rivals.

Times are medians over calls that rotate through inputs which together exceed the L2 cache. Beside
each stands its error against float64 and the fraction of a ceiling measured in the same run: a copy
for memory, a bf16 (or tf32) matrix product for arithmetic. A workload is a function in WORKLOADS
that yields :class:`Job` lists; another module of workloads joins by extending that tuple.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import sslkernels as ssk
from benchmarks import gpu_losses, gpu_statistics
from benchmarks.gpu_jobs import FORMULAS_BOUND, LOSS_BOUNDS, Job, l2_bytes, rotations
from sslkernels.report.speed import is_wrong, official_vicreg, step

BUDGET_SECONDS = 420.0  # no workload starts after this
SAMPLES = 50


def median_seconds(run: Callable[..., Any], inputs: list[tuple[Any, ...]]) -> tuple[float, int]:
    """(median, samples): device time between two events around a call, inputs rotating."""
    started = time.perf_counter()
    for values in inputs[:2]:
        run(*values)
    torch.cuda.synchronize()
    rotation = itertools.cycle(inputs)
    times: list[float] = []
    while len(times) < SAMPLES and (len(times) < 5 or time.perf_counter() - started < 5.0):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run(*next(rotation))
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times), len(times)


def ceilings() -> dict[str, float]:
    """What this device reaches in this run: bytes per second of a copy, read plus written, and
    operations per second of a matrix product in bf16 and in tf32."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    found = {"copy B/s": 2 * source.nbytes / median_seconds(target.copy_, [(source,)] * 2)[0]}
    del source, target
    n = 8192
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "tf32")):
        a = torch.randn(n, n, device="cuda").to(dtype)
        torch.set_float32_matmul_precision("high")
        found[f"{name} product FLOP/s"] = 2 * n**3 / median_seconds(torch.mm, [(a, a)] * 2)[0]
    torch.set_float32_matmul_precision("highest")
    return found


# ---- VICReg ----


def _in_a_graph(x: torch.Tensor, y: torch.Tensor) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Our step captured once and replayed on inputs copied in: device time without launches."""
    x, y = (z.detach().clone().requires_grad_() for z in (x, y))
    run = functools.partial(step, ssk.vicreg_loss)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(x, y)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(x, y)

    def replay(new_x: torch.Tensor, new_y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            x.copy_(new_x)
            y.copy_(new_y)
        graph.replay()
        return captured

    return replay


def _unfused(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same algebra by vendor products and separate reductions."""
    with ssk.use_backend("torch"):
        return step(ssk.vicreg_loss, x, y)


SHAPES = ((256, 8192), (2048, 8192), (2048, 2048), (256, 2048), (257, 5003))


def vicreg() -> Iterator[list[Job]]:
    """Forward and backward against the official formula, eager and compiled."""
    cases = itertools.product(SHAPES, "bf")
    for (n, d), kind in cases:
        dtype = torch.bfloat16 if kind == "b" else torch.float32
        name = f"VICReg forward+backward {'bf16' if kind == 'b' else 'tf32'} ({n}, {d})"
        size = 2 * n * d * dtype.itemsize
        generator = torch.Generator("cuda").manual_seed(0)
        inputs = []
        for _ in range(rotations(size)):
            x = torch.randn(n, d, generator=generator, device="cuda")
            y = x + 0.3 * torch.randn(n, d, generator=generator, device="cuda")
            inputs.append(tuple(z.to(dtype).requires_grad_() for z in (x, y)))
        x64, y64 = (z.detach().double().requires_grad_() for z in inputs[0])
        with ssk.use_backend("torch"):
            exact = step(ssk.vicreg_loss, x64, y64)

        def error(found: Any, exact: Any = exact) -> float:
            return max(
                float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)
            )

        # Per view: half of a symmetric product forward, a whole one backward, on the smaller side.
        operations = 2 * 3 * min(n, d) ** 2 * max(n, d)
        contenders: dict[str, Callable[..., Any]] = {
            "sslkernels": functools.partial(step, ssk.vicreg_loss),
            "sslkernels, CUDA graph": _in_a_graph(*inputs[0]),
            "torch backend (unfused)": _unfused,
            "official, eager": functools.partial(step, official_vicreg),
            "official, torch.compile": functools.partial(
                step, torch.compile(official_vicreg, dynamic=False)
            ),
        }
        ceiling = f"{'bf16' if kind == 'b' else 'tf32'} product FLOP/s"
        yield [
            Job(name, contender, run, inputs, error, bound, operations, "FLOP", ceiling, "high")
            for contender, run in contenders.items()
            for bound in (FORMULAS_BOUND if "official" in contender else LOSS_BOUNDS[dtype],)
        ]


def column_moments() -> Iterator[list[Job]]:
    """Means, variances and invariance of two views in one read, against the same in torch."""
    from sslkernels.backends.triton.core.launch import device_of
    from sslkernels.backends.triton.product.column_moments import column_moments as ours

    for n, d in ((4096, 8192), (262144, 512), (65537, 509)):
        size = 2 * n * d * 2
        inputs = []
        for _ in range(rotations(size)):
            x, y = torch.randn(2, 1, n, d, device="cuda", dtype=torch.bfloat16)
            inputs.append((x, y))
        x, y = (z.double() for z in inputs[0])
        exact = torch.cat([x.var(1).flatten(), y.var(1).flatten()])
        device = device_of(inputs[0][0])

        def run(x: torch.Tensor, y: torch.Tensor, device: Any = device) -> torch.Tensor:
            return ours(x, y, 1.0, 1e-4, device)[1]

        def plain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            x, y = x.float(), y.float()
            (x - y).square().mean()
            return torch.stack([torch.var_mean(z, 1)[0] for z in (x, y)])

        def error(found: torch.Tensor, exact: torch.Tensor = exact) -> float:
            return float((found.double().flatten() - exact).norm() / exact.norm())

        name = f"column moments of two views bf16 ({n}, {d})"
        yield [
            # fp32 sums of squares, relative
            Job(name, "sslkernels", run, inputs, error, 2e-6, size, "B", "copy B/s"),
            Job(name, "torch", plain, inputs, error, 1e-4, size, "B", "copy B/s"),
        ]


WORKLOADS: tuple[Callable[[], Iterator[list[Job]]], ...] = (
    vicreg,
    column_moments,
    *gpu_statistics.WORKLOADS,
    *gpu_losses.WORKLOADS,
)


# ---- running and reporting ----


def measure(job: Job, limits: dict[str, float]) -> dict[str, Any]:
    torch.set_float32_matmul_precision(job.setting)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    error = job.error(job.run(*job.inputs[0]))
    peak = torch.cuda.max_memory_allocated() - before
    about = {
        "workload": job.workload,
        "contender": job.contender,
        "error": error,
        "wrong": is_wrong(error, job.bound),
    }
    if about["wrong"]:  # no speed without a result
        torch.set_float32_matmul_precision("highest")
        return about
    seconds, samples = median_seconds(job.run, job.inputs)
    torch.set_float32_matmul_precision("highest")
    return about | {
        "median_seconds": seconds,
        "samples": samples,
        "input_sets": len(job.inputs),
        "peak_extra_bytes": peak,
        "rate": job.amount / seconds,
        "unit": f"{job.unit}/s",
        "of_ceiling": job.amount / seconds / limits[job.ceiling],
        "ceiling": job.ceiling,
    }


def machine() -> dict[str, Any]:
    import triton

    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "device": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "l2_bytes": l2_bytes(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip,
        "triton": triton.__version__,
        "sslkernels": ssk.__version__,
        "commit": commit or None,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="GPU benchmarks, side by side.")
    parser.add_argument("--json", metavar="DIR", type=Path, help="write the results there")
    parser.add_argument("--only", default="", metavar="TEXT", help="workloads whose name has it")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU that torch can use: nothing to measure")
    started = time.perf_counter()
    about, limits = machine(), ceilings()
    print(json.dumps(about, indent=1))
    for name, value in limits.items():
        print(f"{name}: {value:.3g}")
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    for jobs in itertools.chain.from_iterable(workload() for workload in WORKLOADS):
        name = jobs[0].workload
        if options.only not in name:
            continue
        if time.perf_counter() - started > BUDGET_SECONDS:
            skipped.append(name)
            continue
        print(f"\n{name}")
        ours = 0.0
        for job in jobs:
            row = measure(job, limits)
            rows.append(row)
            if row["wrong"]:
                print(f"  {job.contender:26} WRONG  error {row['error']:.1e} > {job.bound:.1e}")
                continue
            ours = ours or row["median_seconds"]
            print(
                f"  {job.contender:26} {row['median_seconds'] * 1e6:10.1f} µs"
                f" {row['median_seconds'] / ours:8.2f}x {row['rate']:10.3g} {row['unit']:7}"
                f" {row['of_ceiling']:7.1%} of {job.ceiling}  error {row['error']:.1e}"
                f"  memory {row['peak_extra_bytes'] / 2**20:.0f} MiB"
            )
        torch.cuda.empty_cache()
    if skipped:
        print(f"\nnot measured within {BUDGET_SECONDS:.0f} s: {', '.join(skipped)}")
    if options.json:
        options.json.mkdir(parents=True, exist_ok=True)
        file = options.json / f"{about['device'].replace(' ', '-').lower()}.json"
        report = {"machine": about, "ceilings": limits, "results": rows, "not_measured": skipped}
        file.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nwritten to {file}")
    sys.exit(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
