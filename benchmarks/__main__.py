"""``python -m benchmarks``: run the CPU workloads and print them side by side, errors included."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import sslkernels as ssk
from benchmarks.cpu import WORKLOADS
from sslkernels._files import replaced
from sslkernels.cli.facts import cpu_name
from sslkernels.report.speed import Workload, is_wrong, timed

CPU = torch.device("cpu")


def ceilings() -> dict[str, float]:
    """What this machine reaches in the same run: reading memory, and products by the vendor."""
    data = torch.ones(2**28)
    a = torch.randn(4096, 4096)
    b = a.bfloat16()

    def seconds(job: Callable[[], Any]) -> float:
        return statistics.median(timed(job, CPU, most=5)[0])

    return {
        "read B/s": data.nbytes / seconds(data.sum),
        "fp32 product FLOP/s": 2 * 4096**3 / seconds(lambda: a @ a),
        "bf16 product FLOP/s": 2 * 4096**3 / seconds(lambda: b @ b),
    }


def machine() -> dict[str, str | int]:
    return {
        "processor": cpu_name(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "sslkernels": ssk.__version__,
        "cpu backend": ssk.backends()["cpu"].reason,
        "torch": torch.__version__,
    }


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _bytes(amount: float) -> str:
    return "-" if math.isnan(amount) else f"{amount / 2**20:,.1f} MiB"


def measured(workload: Workload) -> list[dict[str, Any]]:
    """A row for each contender, with its error; no speed without a result."""
    case = workload.build()
    rows = []
    for name in workload.contenders:
        times, result = timed(case.contenders[name], CPU, most=workload.rounds)
        error = case.error(result)
        wrong = is_wrong(error, case.bounds[name])
        row = {"workload": workload.name, "contender": name, "error": error, "wrong": wrong}
        row |= {"amount": case.amount, "unit": case.unit, "memory": peak_memory(workload, name)}
        for stat in (statistics.median, min, max):
            row[stat.__name__] = None if wrong else stat(times)
        rows.append(row)
    return rows


def peak_memory(workload: Workload, contender: str) -> float:
    """Bytes beyond input and result, in a fresh process (see benchmarks/memory.py)."""
    command = [sys.executable, "-m", "benchmarks.memory", workload.name, contender]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else math.nan


def table(rows: list[dict[str, Any]], limits: dict[str, float]) -> Table:
    """The contenders of one workload, ours first."""
    ours = rows[0]
    shown = Table(title=ours["workload"], title_justify="left")
    for column in ("", "median", "spread", "ours is faster by", "rate", "error", "memory"):
        shown.add_column(column, justify="left" if not column else "right")
    for row in rows:
        error = "-" if math.isnan(row["error"]) else f"{row['error']:.1e}"
        if row["wrong"]:
            shown.add_row(row["contender"], "WRONG", "", "", "", error, "")
            continue
        rate = row["amount"] / row["median"]
        limit = limits["read B/s" if row["unit"] == "B" else "fp32 product FLOP/s"]
        shown.add_row(
            row["contender"],
            _time(row["median"]),
            f"{_time(row['min'])} to {_time(row['max'])}",
            "-" if ours["wrong"] else f"{row['median'] / ours['median']:.2f}x",
            f"{rate / 1e9:,.0f} G{row['unit']}/s ({rate / limit:.0%})",
            error,
            _bytes(row["memory"]),
        )
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    only = "only workloads whose name holds TEXT (repeatable)"
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help=only)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    limits, about = ceilings(), machine()
    console = Console(width=None if Console().is_terminal else 140)
    console.print(", ".join(f"{k}: {v}" for k, v in about.items()))
    console.print(", ".join(f"{k}: {v / 1e9:,.0f} G" for k, v in limits.items()))
    console.print("rate: the least work the job needs over its time (share of the ceiling above).")
    rows: list[dict[str, Any]] = []
    for workload in WORKLOADS:
        if args.only and not any(text.lower() in workload.name.lower() for text in args.only):
            continue
        found = measured(workload)
        console.print(table(found, limits))
        rows += found
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with replaced(args.json) as file:
            file.write(json.dumps({"machine": about, "ceilings": limits, "rows": rows}, indent=1))
    wrong = [f"{row['workload']}: {row['contender']}" for row in rows if row["wrong"]]
    for name in wrong:
        console.print(f"WRONG: {name}", style="bold red")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
