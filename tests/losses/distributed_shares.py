"""Scenarios of ``distributed_worker.py`` about what a rank computes, sends and keeps."""

from __future__ import annotations

from functools import partial
from random import Random
from unittest import mock

import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from sslkernels import use_backend
from sslkernels.compat import lightly
from sslkernels.distributed import batch
from sslkernels.distributed.parts import widths
from sslkernels.losses import vicreg_loss
from tests.losses.distributed_cases import (
    LOSSES,
    PLAIN,
    Noted,
    equal,
    hold,
    raises,
    scenario,
    split,
    unequal,
    views,
    with_grad,
)


class Collectives:
    """Names the collectives of a block, in order."""

    def __init__(self):
        self.names = []
        owners = {
            "gather": (batch, "gather_tensor"),
            "add": (dist, "all_reduce"),
            "exchange": (dist, "all_to_all_single"),
        }
        self.patches = [
            mock.patch.object(*owner, partial(self.count, name, getattr(*owner)))
            for name, owner in owners.items()
        ]

    def count(self, name, plain, *args, **kwargs):
        self.names.append(name)
        return plain(*args, **kwargs)

    def __enter__(self):
        for patch in self.patches:
            patch.start()
        return self.names

    def __exit__(self, *_):
        for patch in self.patches:
            patch.stop()


@scenario("agreeing")
def collectives_and_memory():
    """Few rounds forward, none backward; nothing of N x D or N x N kept."""
    rows, d = [16] * dist.get_world_size(), 96
    columns = ["gather", "exchange", "add", "gather", "exchange", "exchange"]
    wanted = {
        "vicreg": columns,
        "barlow_twins": columns,
        "nt_xent": ["gather", "gather", "gather"],
        "sigreg": ["gather", "add"] * 2,
    }
    n = rows[0]
    for name in PLAIN:
        x, y = (z[split(rows)].clone().requires_grad_() for z in views(rows, d))
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.untyped_storage().nbytes()) or t, lambda t: t
        )
        with Collectives() as forward, hooks:
            value = LOSSES[name](x, y, group="world")
        assert forward == wanted[name], (name, forward)
        with Collectives() as backward:
            value.backward()
        assert backward == [], (name, backward)
        if name != "sigreg":
            own = 2 * n * d * 8
            assert sum(kept) <= 2 * own + 8 * 8 * 2 * d, (name, sum(kept), own)
    for name in ("vicreg", "barlow_twins"):  # own rows of all columns
        x, y = (z[split(rows)].requires_grad_() for z in views(rows, 5))
        with Collectives() as forward:
            LOSSES[name](x, y, group="world").backward()
        assert forward == ["gather", "gather", "add"], (name, forward)
        x, y = (z[split(rows)] for z in views(rows, d))  # no gradient is wanted
        with Collectives() as forward:
            LOSSES[name](x, y, group="world")
        assert forward == columns[:4], (name, forward)


@scenario("agreeing")
def work_is_shared():
    """Every product is a kernel's, and a rank's are one process's divided by the ranks."""
    world = dist.get_world_size()
    losses = {name: LOSSES[name] for name in ("vicreg", "barlow_twins")}

    def gathering(x, y, group=None):
        return lightly.BarlowTwinsLoss(gather_distributed=group is not None)(x, y)

    losses["lightly"] = gathering
    rows = [16] * world
    for d in (96, 20):
        x, y = views(rows, d)
        own = split(rows)
        for name, loss in losses.items():
            part = partial(loss, group="world")
            with Noted(*Noted.PRODUCTS) as products:
                with_grad(part, x[own], y[own])
            assert not products.found, (name, products.found)
            with use_backend("torch"), FlopCounterMode(display=False) as work:
                with_grad(part, x[own], y[own])
            n = sum(rows)
            alone = 8 * n * n * d if d == 96 else (8 if name == "vicreg" else 6) * n * d * d
            assert work.get_total_flops() == alone / world, (name, d)


@scenario("agreeing")
def drawn_sizes():
    """On both sides of 8 N = 7 D, D of any remainder by the ranks, unequal shares, one row too."""
    world = dist.get_world_size()
    random = Random(7)
    for draw in range(12):
        rows = [random.randint(1, 9) for _ in range(world)]
        total = sum(rows)
        boundary = -(-8 * total // 7)
        d = random.choice((boundary - 1, boundary, boundary + random.randint(1, 30)))
        middle = random.choice(((), (2,)))
        for name in ("vicreg terms", "barlow_twins terms"):
            shape = (*middle, d) if name == "vicreg terms" else (d,)
            offset = random.choice((0.0, 100.0))
            try:
                hold(LOSSES[name], *views(rows, *shape, offset=offset, seed=draw), rows, 1e-10)
            except AssertionError as error:
                raise AssertionError(f"{name}, rows {rows}, {shape}: {error}") from error


@scenario("agreeing")
def aligned_columns():
    """With columns enough each rank's are a multiple of 16, but for the last rank's."""
    world = dist.get_world_size()
    rows, d = equal(), 256 * world + 7
    whole = batch.Batch(dist.group.WORLD, dist.get_rank(), tuple(rows), True, True)
    found = widths(whole, d)
    assert sum(found) == d and not any(width % 16 for width in found[:-1]), found
    hold(LOSSES["vicreg terms"], *views(rows, d), rows)
    hold(LOSSES["barlow_twins terms"], *views(rows, d), rows)


@scenario("agreeing")
def agreements_are_kept_on_some_devices():
    x, y = (z[split(unequal())] for z in views(unequal(), 24))
    losses = [partial(LOSSES[name], group="world") for name in PLAIN]
    with mock.patch.object(batch, "KEPT_ON", {"cpu"}):
        for loss in losses:
            with Collectives() as first:
                before = with_grad(loss, x, y)
            with Collectives() as second:
                after = with_grad(loss, x, y)
            assert first == ["gather", *second], (loss, first, second)
            # On a GPU a number that the host reads makes it wait.
            with use_backend("torch"), Noted("_local_scalar_dense") as waits:
                with_grad(loss, x, y)
            assert not waits.found or loss.func is LOSSES["sigreg"], loss
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), loss
        # Others may be past their exchange, so that a refusal is nobody else's.
        raises(ValueError, "y: expected x's shape", vicreg_loss, x, y[:, 1:], group="world")
        with Collectives() as other:
            vicreg_loss(x[:, 1:], y[:, 1:], group="world")
        assert other[0] == "gather", other
    with Collectives() as plain:
        vicreg_loss(x, y, group="world")
    assert plain.count("gather") == 2, plain
    batch._kept.clear()
