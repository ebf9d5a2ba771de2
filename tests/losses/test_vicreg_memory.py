"""What only a fresh process can show: peak memory, and scratch that nobody filled."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and tunes glibc")

MEMORY = """
import torch
from sslkernels.losses import vicreg_loss

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

n, d = {n}, {d}
small = torch.randn(4, 4, requires_grad=True)
vicreg_loss(small, small).backward()
x, y = (torch.randn(n, d, requires_grad=True) for _ in range(2))
before = status("VmRSS")
vicreg_loss(x, y).backward()
print(status("VmHWM") - before)
"""

POISON = """
import torch
from sslkernels.losses import VICRegLoss

torch.manual_seed(0)
for n, d in ((33, 300), (300, 33), (60, 3000), (130, 129)):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x, y = (torch.randn(n, d, dtype=dtype, requires_grad=True) for _ in range(2))
        terms = VICRegLoss().forward_components(x, y)
        terms.loss.backward()
        print([float(t.detach()) for t in terms])
        print(float(x.grad.double().square().sum()), float(y.grad.double().square().sum()))
"""


def run(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    env = os.environ | {"OMP_NUM_THREADS": "2"} | environment
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("n", "d"), [(256, 8192), (1024, 1024)])
def test_peak_memory(n, d):
    # Two Gram matrices and their packed copies, gradients, a working copy; the D x D covariance of
    # one view alone would be 256 MiB at D = 8192.
    side, view = min(n, d) ** 2 * 4 / 2**20, n * d * 4 / 2**20
    extra = float(run(MEMORY.format(n=n, d=d)))
    assert extra < 4 * side + 5 * view + 20


def test_scratch_is_filled_before_it_is_read():
    # glibc hands out memory full of 0x7f bytes: 3e38 as float32, 1e306 as float64.
    assert run(POISON, MALLOC_PERTURB_="128") == run(POISON)
