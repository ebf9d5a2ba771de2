"""What readers of data raise."""


class DataError(ValueError):
    """What is wrong with an input, in one line that names the file and, where there is one, the
    row.

    ``rows`` is how many rows the header of an unusable file promises, if it can be read.
    """

    def __init__(self, message: str, *, rows: int | None = None) -> None:
        super().__init__(message)
        self.rows = rows


def missing(module: str, path: str) -> DataError:
    """The error for a file whose reader is not installed."""
    return DataError(f"{path}: needs {module}: pip install 'sslkernels[data]'")
