"""``sslkernels info``: versions, CPU features, backends."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sslkernels.cli.console import one_line_errors, out
from sslkernels.cli.facts import facts


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show versions, CPU features in use, and each backend or why it is unusable here.

    SSLKERNELS_CPU_ISA=portable (avx2, avx512, avx512bf16, amx) limits the instruction set in use.
    """
    with one_line_errors():
        known = facts()
        if as_json:
            typer.echo(json.dumps(known, indent=2))
            return
        machine = known["machine"]
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        for name, value in known["versions"].items():
            table.add_row(name, value or "[dim]none[/]")
        table.add_row()
        table.add_row("system", machine["system"])
        table.add_row("cpu", escape(machine["cpu"]))
        active, detected = machine["instruction_set"], machine["instruction_set_detected"]
        if active:
            limited = "" if active == detected else f" (limited; the CPU has {detected})"
            table.add_row("instructions", active + limited)
        table.add_row("threads", str(machine["threads"]))
        table.add_row("gpus", escape(", ".join(machine["gpus"])) or "[dim]none[/]")
        table.add_row()
        for name, status in known["backends"].items():
            mark = "[green]usable[/]  " if status["usable"] else "[red]unusable[/]"
            table.add_row(name, f"{mark}  {escape(status['reason'])}")
        out.print(table)
