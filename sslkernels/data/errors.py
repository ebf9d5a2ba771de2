"""What readers of data raise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_LONGEST = 2000  # characters of a message


class DataError(ValueError):
    """What is wrong with an input, in one line that names the file and, where there is one, the
    row.

    ``rows`` is how many rows the header of an unusable file promises, if it can be read. Names of
    files and what stands in them may hold anything: what cannot be printed is escaped.
    """

    def __init__(self, message: str, *, rows: int | None = None) -> None:
        super().__init__(_one_line(message))
        self.rows = rows


def _one_line(message: str) -> str:
    if len(message) > _LONGEST:
        message = message[:_LONGEST] + " ..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)


def missing(module: str, path: str) -> DataError:
    """The error for a file whose reader is not installed."""
    return DataError(f"{path}: needs {module}: pip install 'sslkernels[data]'")


@contextlib.contextmanager
def data_errors(path: str, what: str = "cannot be read") -> Iterator[None]:
    """The boundary of every reader and writer: whatever fails inside becomes a DataError
    ``PATH: WHAT: reason``.

    The content of a file is anybody's, and its parsers fail in ways that nobody can list: a
    RecursionError of deep nesting, a MemoryError of a huge length, TokenError, AttributeError,
    UnicodeDecodeError. The cause stays attached.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = f"{what}: {first_line(error)}"
        if isinstance(error, OSError) and error.filename is not None:
            reason = first_line(error)  # of the file itself: No such file or directory
        raise DataError(f"{path}: {reason}") from error


def first_line(error: BaseException) -> str:
    """An error in one line: its own first one, or its type where it has no words."""
    if isinstance(error, KeyError):
        return f"no {error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
