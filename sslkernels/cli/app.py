"""The commands in one application, and the exit status of a run."""

from __future__ import annotations

import inspect
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated

import typer

from sslkernels import __version__
from sslkernels.cli import torchrun
from sslkernels.cli.console import fail

_COMMANDS = ("report", "demo", "study", "info", "bench")  # each a function in a module of its name


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sslkernels {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Fused kernels for self-supervised losses and class-geometry statistics of embeddings."""


def _help(command: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line, for the terminal to wrap; examples stay."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else p.replace("\n", " ") for p in paragraphs)


def application(args: Sequence[str]) -> typer.Typer:
    """The command that ``args`` name, or all: the modules of the others are not imported."""
    app = typer.Typer(
        name="sslkernels",
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(root)
    for name in args[:1] if args and args[0] in _COMMANDS else _COMMANDS:
        command = getattr(import_module(f"sslkernels.cli.{name}"), name)
        app.command(help=_help(command), no_args_is_help=name == "report")(command)
    return app


def run(args: Sequence[str] | None = None) -> int:
    """Run one command; 0, 2 for what the user can put right, 130 when interrupted."""
    signal.signal(signal.SIGTERM, _stop)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what it cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if args is None else list(args)
    if given[:1] == ["report"]:
        torchrun.hush()
    try:
        _check_environment()
        status = application(given)(given, prog_name="sslkernels", standalone_mode=False)
    except typer.Exit as done:
        return done.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return fail("interrupted", 130).exit_code
    except Exception as error:
        # A wrong option, in the words of click, which typer carries along in some versions.
        words = getattr(error, "format_message", None)
        if words is None:
            raise
        message = " ".join(words().split())
        return fail(message).exit_code if message else 2  # no arguments: the help has been shown
    return status if isinstance(status, int) else 0


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # unwinds, so that half-written results are removed


def _check_environment() -> None:
    from sslkernels.backends import cpu

    if cpu._C is None:
        return
    try:
        cpu._C.active_isa()
    except ValueError as error:
        limit = os.environ.get("SSLKERNELS_CPU_ISA")
        raise fail(f"SSLKERNELS_CPU_ISA={limit}: {error}") from None
