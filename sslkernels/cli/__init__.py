"""The command line: ``sslkernels report | demo | study | bench | info``."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

_NEEDS = {
    "typer": "typer",
    "rich": "rich",
    "matplotlib": "matplotlib",
    "sklearn": "scikit-learn",
}


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line on ``args`` (``sys.argv`` by default) and exit with its status."""
    missing = [package for module, package in _NEEDS.items() if find_spec(module) is None]
    given = sys.argv[1:] if args is None else list(args)
    if missing and given == ["info"]:  # the command that says what is missing
        from sslkernels.cli.facts import plain

        print("\n".join(plain(missing)))
        sys.exit(0)
    if missing:
        print(
            f"sslkernels: the command line needs {', '.join(missing)}: "
            "pip install 'sslkernels[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    from sslkernels.cli.app import run

    # What is frozen is not taken apart at the end: with torch loaded that takes half a second.
    atexit.register(gc.freeze)
    sys.exit(run(args))
