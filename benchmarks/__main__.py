"""``python -m benchmarks``: run the CPU workloads and print them side by side, errors included."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table

import sslkernels as ssk
from sslkernels.cli.facts import cpu_name
from sslkernels.report.speed import timed

CPU = torch.device("cpu")


def ceilings() -> dict[str, float]:
    """What this machine reaches in the same run: reading memory, and products by the vendor."""
    data = torch.ones(2**28)
    a = torch.randn(4096, 4096)
    b = a.bfloat16()
    return {
        "read B/s": data.nbytes / timed(data.sum, CPU, 2.0)[0],
        "fp32 product FLOP/s": 2 * 4096**3 / timed(lambda: a @ a, CPU, 2.0)[0],
        "bf16 product FLOP/s": 2 * 4096**3 / timed(lambda: b @ b, CPU, 2.0)[0],
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
    return "-" if amount != amount else f"{amount / 2**20:,.1f} MiB"


def tables(rows: list[dict], limits: dict[str, float]) -> Iterator[Table]:
    for name, group in groupby(rows, key=lambda r: r["workload"]):
        contenders = list(group)
        ours = contenders[0]
        table = Table(title=name, title_justify="left")
        for column in ("", "median", "spread", "ours is faster by", "rate", "error", "memory"):
            table.add_column(column, justify="left" if not column else "right")
        for row in contenders:
            error = "-" if row["error"] != row["error"] else f"{row['error']:.1e}"
            if row["wrong"]:
                table.add_row(row["contender"], "WRONG", "", "", "", error, "")
                continue
            rate = row["amount"] / row["median"]
            limit = limits["read B/s" if row["unit"] == "B" else "fp32 product FLOP/s"]
            table.add_row(
                row["contender"],
                _time(row["median"]),
                f"{_time(row['min'])} to {_time(row['max'])}",
                "-" if ours["wrong"] else f"{row['median'] / ours['median']:.2f}x",
                f"{rate / 1e9:,.0f} G{row['unit']}/s ({rate / limit:.0%})",
                error,
                _bytes(row["memory"]),
            )
        yield table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    only = "only workloads whose name holds TEXT (repeatable)"
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help=only)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    limits = ceilings()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        here = Path(__file__).parent
        workloads = [f"--workload={text}" for text in args.only]
        quiet = ["-q", "-W", "ignore", "-p", "no:cacheprovider", "--benchmark-quiet"]
        output = ["--benchmark-json", str(raw)]
        status = pytest.main([str(here / "test_cpu.py"), *quiet, *output, *workloads])
        found = json.loads(raw.read_text())["benchmarks"] if raw.exists() else []
    stats = ("median", "min", "max")
    rows = [
        # No speed without a result: not in the table, and not in the file.
        b["extra_info"] | {k: None if b["extra_info"]["wrong"] else b["stats"][k] for k in stats}
        for b in found
    ]
    console = Console(width=None if Console().is_terminal else 140)
    about = machine()
    console.print(", ".join(f"{k}: {v}" for k, v in about.items()))
    console.print(", ".join(f"{k}: {v / 1e9:,.0f} G" for k, v in limits.items()))
    console.print("rate: the least work the job needs over its time (share of the ceiling above).")
    for table in tables(rows, limits):
        console.print(table)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        part = args.json.with_suffix(".part")
        part.write_text(json.dumps({"machine": about, "ceilings": limits, "rows": rows}, indent=1))
        part.rename(args.json)
    wrong = [f"{row['workload']}: {row['contender']}" for row in rows if row["wrong"]]
    for name in wrong:
        console.print(f"WRONG: {name}", style="bold red")
    return int(status) or int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
