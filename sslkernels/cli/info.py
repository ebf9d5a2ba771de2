"""``sslkernels info``: versions, CPU features, backends."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sslkernels.cli.console import one_line_errors
from sslkernels.cli.facts import facts, plain


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show versions, CPU features in use, and each backend or why it is unusable here.

    SSLKERNELS_CPU_ISA=portable (avx2, avx512, avx512bf16, amx) limits the instruction set in use.
    """
    with one_line_errors():
        typer.echo(json.dumps(facts(), indent=2) if as_json else "\n".join(plain()))
