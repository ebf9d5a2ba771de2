"""The whole of ``evaluate`` on the device (or interpreted), held to the torch backend."""

from __future__ import annotations

import math

import torch

import sslkernels as ssk


def test_every_statistic_equals_that_of_torch_operations(device):
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (120,), generator=g)
    z = torch.randn(6, 24, generator=g)[labels] + 0.7 * torch.randn(120, 24, generator=g) + 2.0
    fine, coarse = labels.to(device), (labels // 2).to(device)
    found = {}
    for name in ("triton", "torch"):
        with ssk.use_backend(name):
            found[name] = ssk.evaluate(
                z.to(device),
                {"fine": fine, "coarse": coarse, "other": fine.roll(1)},
                z_test=z[:40].to(device) + 0.1,
                labels_test={"fine": fine[:40]},
                z_view=z.to(device) + 0.05,
                few_shot=2,
                few_shot_repeats=2,
                chunk_rows=50,
            ).rows()
    for ours, plain in zip(found["triton"], found["torch"], strict=True):
        assert ours["statistic"] == plain["statistic"]
        assert math.isclose(ours["value"], plain["value"], rel_tol=2e-5, abs_tol=1e-9), (
            ours,
            plain,
        )
