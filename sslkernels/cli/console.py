"""What the commands share: where they print, their progress bars, how they fail."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from sslkernels.data import DataError
from sslkernels.evaluation.ranks import RankFailed, RankLost
from sslkernels.report.files import OutputError

_WIDTH = 100  # of tables that go to a file or a pipe

out = Console(highlight=False, soft_wrap=False)
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = _WIDTH
err = Console(stderr=True, highlight=False, soft_wrap=True)


class OptionError(ValueError):
    """What is wrong with the options, in one line that names the one to change."""


def fail(message: str, code: int = 2) -> typer.Exit:
    """Print one line on stderr; the exception to raise."""
    err.print(f"[bold red]error:[/] {escape(message)}")
    return typer.Exit(code)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a user can put right into one line and exit status 2, Ctrl-C into 130."""
    try:
        yield
    except (DataError, OptionError, OutputError) as error:
        raise fail(str(error)) from None
    except (RankLost, RankFailed) as error:
        raise fail(str(error), 1) from None
    except KeyboardInterrupt:
        raise fail("interrupted", 130) from None


class Rate(ProgressColumn):
    """``1.2 M rows/s``."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        for unit, size in (("M ", 1e6), ("k ", 1e3), ("", 1.0)):
            if speed >= size:
                return Text(f"{speed / size:.3g} {unit}rows/s")
        return Text(f"{speed:.2g} rows/s")


def progress(*extra: ProgressColumn) -> Progress:
    """A progress bar on stderr that says nothing where nobody watches."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TextColumn("{task.percentage:>3.0f}%"),
        *extra,
        TimeRemainingColumn(),
        # Older versions of rich end even a disabled bar with a newline.
        console=err if err.is_terminal else Console(quiet=True),
        transient=True,
        disable=not err.is_terminal,
    )
