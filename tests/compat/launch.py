"""Run a module of the tests in several processes."""

from __future__ import annotations

from tests import forked


def on_ranks(module: str, ranks: int, *arguments: str) -> None:
    for status, _, err in forked.ranks(["-m", module, *arguments], ranks):
        assert status == 0, err[-6000:]
