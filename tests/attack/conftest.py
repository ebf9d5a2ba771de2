"""What attacks on the command line share: small files, and a way to run it in this process."""

from tests.cli.conftest import command, data

__all__ = ["command", "data"]
