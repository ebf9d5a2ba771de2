"""The options of :func:`sslkernels.evaluate` on the command line, as ``Settings`` declares them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Any

import typer

from sslkernels.cli.console import OptionError
from sslkernels.evaluation.settings import NUMBERS, Settings

_DECLARED = [option for option in fields(Settings) if option.metadata["flag"]]
_TYPER = ("help", "min", "metavar", "show_default")

# What users write here, by the argument that errors of evaluate() name.
FLAGS = {option.name: option.metadata["flag"].partition("/")[0] for option in _DECLARED}


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with every declared option in place of its ``**options``."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *map(_parameter, _DECLARED)]
    )
    return command


def _parameter(option: Field[Any]) -> inspect.Parameter:
    about = option.metadata
    kind, shown = str if about["kind"] == NUMBERS else about["kind"], about["shown"]
    info = typer.Option(about["flag"], **{k: about[k] for k in _TYPER if k in about})
    return inspect.Parameter(
        option.name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=shown,
        annotation=Annotated[kind | None if shown is None else kind, info],
    )


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    """What :func:`sslkernels.evaluate` takes, from the values of the options."""
    found = {}
    for option in _DECLARED:
        value = given[option.name]
        if option.metadata["kind"] == NUMBERS:
            value = _numbers(FLAGS[option.name], value)
        if "scale" in option.metadata:
            value *= option.metadata["scale"]
        found[option.name] = value
    return found


def _numbers(flag: str, values: str | None) -> tuple[int, ...]:
    if values is None:
        return ()
    try:
        numbers = tuple(int(value) for value in values.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise OptionError(f"{flag} {values}: expected positive integers with commas between")
    return numbers
