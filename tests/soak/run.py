"""One case with its options: the instruction set, the threads, the backend."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

import torch

import sslkernels as ssk
from sslkernels.backends import cpu
from tests.isa import DETECTED
from tests.soak import centers, collapse, evaluations, losses, moments, ranks, rows
from tests.soak.draws import Draw


def _cases(*modules: ModuleType) -> dict[str, Callable[[Draw], None]]:
    return {
        name.removeprefix("case_"): case
        for module in modules
        for name, case in vars(module).items()
        if name.startswith("case_")
    }


CASES = _cases(losses, moments, centers, collapse, rows, evaluations)
DISTRIBUTED = _cases(ranks)  # each rank runs them
NAMES = [*CASES, *DISTRIBUTED]
_REFUSED = re.compile("no backend can serve")  # said, not wrong


class Options(NamedTuple):
    """What decides a case, wherever it runs."""

    name: str
    seed: int
    backend: str | None
    isa: str
    threads: int
    scale: float

    def line(self) -> str:
        """The command that repeats the case."""
        backend = f" --backend {self.backend}" if self.backend else ""
        scale = f" --scale {self.scale:g}" if self.scale != 1 else ""
        return (
            f"python -m tests.soak --case {self.seed} --only {self.name} --isa {self.isa} "
            f"--threads {self.threads}{backend}{scale}"
        )


@contextlib.contextmanager
def under(options: Options) -> Iterator[None]:
    """The backend, instruction set and threads of the case."""
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    cpu._C.set_isa_limit(options.isa)
    try:
        with ssk.use_backend(options.backend) if options.backend else contextlib.nullcontext():
            yield
    finally:
        cpu._C.set_isa_limit(DETECTED[-1])
        torch.set_num_threads(before)


def one(options: Options) -> str | None:
    """What is wrong with the case, in one line; "refused" where no backend serves it."""
    if options.name in DISTRIBUTED:
        return ranks.Pair.started().ask(options)
    return tried(options, CASES[options.name])


def tried(options: Options, case: Callable[[Draw], None]) -> str | None:
    """As :func:`one`, in this process."""
    torch.manual_seed(options.seed)
    try:
        with under(options):
            case(Draw(options.seed, options.scale, options.backend))
    except Exception as error:  # whatever it is, it is a finding
        if isinstance(error, RuntimeError) and _REFUSED.search(str(error)):
            return "refused"
        text = " ".join(str(error).split())[:400]
        if isinstance(error, AssertionError):
            return text
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {text} ({place.filename}:{place.lineno})"
    return None
