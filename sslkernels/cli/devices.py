"""Which device a command runs on, and why."""

from __future__ import annotations

import torch

from sslkernels.cli.console import OptionError
from sslkernels.passes.selection import backends


def choose(wanted: str) -> tuple[torch.device, str | None]:
    """The device of ``--device``, and for ``auto`` on a machine whose GPU is passed over, why.

    ``auto`` is a GPU where there is one that the Triton backend can use, else the CPU.
    """
    if wanted != "auto":
        try:
            device = torch.device(wanted)
            if device.type not in ("cpu", "cuda"):
                raise OptionError(f"--device {wanted}: expected auto, cpu, cuda or cuda:N")
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise OptionError(f"--device {wanted}: cannot be used here: {reason}") from None
        return device, None
    if not torch.cuda.is_available():
        return torch.device("cpu"), None
    triton = backends()["triton"]
    if not triton.usable:
        return torch.device("cpu"), f"the GPU is left alone: {triton.reason}"
    return torch.device("cuda"), None


def name(device: torch.device) -> str:
    """What a table of timings calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads != 1 else ''}"
