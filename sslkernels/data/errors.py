"""What readers of data raise."""


class DataError(ValueError):
    """What is wrong with an input, in one line that names the file and, where there is one, the
    row."""
