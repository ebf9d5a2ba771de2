"""What reaches C++: addresses of aligned memory on the CPU, and threads that may be left behind."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from sslkernels.backends.cpu._views import pointer, view


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.empty(2, 3, device="meta"), "on the CPU, got one on meta"),
        (lambda: torch._neg_view(torch.ones(2, 3)), "lazily negated"),
        (
            lambda: torch.frombuffer(bytearray(27), dtype=torch.float32, offset=3).view(2, 3),
            "aligned memory, got address 0x",
        ),
    ],
)
def test_what_cpp_cannot_read_is_refused(make, reason):
    for take in (view, pointer):
        with pytest.raises(RuntimeError, match=reason):
            take(make())


def test_a_pointer_is_of_contiguous_memory():
    with pytest.raises(RuntimeError, match=r"contiguous tensor, got strides \(1, 2\)"):
        pointer(torch.ones(2, 3).mT.contiguous().mT)


def test_a_daemon_thread_in_a_pass_does_not_break_the_end_of_the_process():
    """Again and again the thread comes back from the pass to an interpreter that is leaving."""
    program = """
        import threading
        import torch
        from sslkernels.backends.cpu import _C
        from sslkernels.backends.cpu._views import pointer, view

        z, mean, m2 = torch.ones(20_000, 64), torch.zeros(64).double(), torch.zeros(64).double()
        arguments = (view(z), 1, pointer(mean), pointer(m2), None)  # torch may abort by itself
        started = threading.Event()

        def work():
            while True:
                _C.unit_moments(*arguments)
                started.set()

        threading.Thread(target=work, daemon=True).start()
        assert started.wait(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
