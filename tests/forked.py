"""Programs in processes of their own, without the seconds that importing torch takes: each is a
fork of a server that has imported it once, with one thread.

What is tested about the beginning of a process, its imports or its environment, needs a real one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# What a report draws its figures with, and what metrics of ranks are made of, take seconds too.
_IMPORTED = [
    "torch.distributed",
    "sslkernels.cli.app",
    "matplotlib.figure",
    "torchmetrics",
    "pytest",
]


class Child:
    """Like ``subprocess.Popen`` with pipes and text, as far as the tests need it.

    Args:
        program: what follows ``python`` on a command line: ``-m MODULE`` or ``-c CODE``, and
            arguments.
        folder: where it runs.
        env: variables beside those of this process.
    """

    def __init__(
        self, program: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self._written = Path(tempfile.mkdtemp())
        self._process = _started(
            _run, program, folder, self._written, {**os.environ, **(env or {})}
        )
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What was written, once the process has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        files = [self._written / name for name in _STREAMS]  # missing if it was killed at once
        out, err = (file.read_text() if file.exists() else "" for file in files)
        shutil.rmtree(self._written, ignore_errors=True)
        return out, err


_STREAMS = ("out", "err")


def _run(program: Sequence[str], folder: Path, written: Path, env: Mapping[str, str]) -> None:
    for number, name in enumerate(_STREAMS, 1):
        file = os.open(written / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    kind, what, *arguments = program
    if kind == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *arguments]
        exec(what, {"__name__": "__main__"})


def _started(target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    process = context.Process(target=target, args=arguments)
    with _one_thread():
        process.start()
    return process


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Where the server begins: torch reads the variable when it is loaded."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def ranks(
    program: Sequence[str], count: int, folder: Path = ROOT, *, timeout: float = 240
) -> list[tuple[int, str, str]]:
    """The program on ``count`` ranks, with the variables that torchrun sets: exit status, stdout
    and stderr of each. When one fails, those that wait for it are ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        Child(
            program,
            folder,
            {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(count)
    ]
    sentinels = {child._process.sentinel: child for child in children}
    try:
        while sentinels:
            ended = multiprocessing.connection.wait(sentinels, timeout)
            failed = [child for s in ended if (child := sentinels.pop(s)).poll() != 0]
            if failed or not ended:
                break
    finally:
        for child in sentinels.values():
            child.kill()
    written = [child.communicate(10) for child in children]
    return [(child.returncode or 0, *texts) for child, texts in zip(children, written, strict=True)]


def calls(function: Callable[..., None], count: int, *arguments: Any) -> None:
    """``function(rank, *arguments)`` in ``count`` processes, all of which must end well."""
    processes = [_started(function, rank, *arguments) for rank in range(count)]
    for process in processes:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * count
