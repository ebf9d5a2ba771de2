"""What each rank runs in ``test_distributed.py``: ``python -m tests.losses.distributed_worker SET
FOLDER`` with torchrun's variables. A rank writes FOLDER/RANK.json: for each scenario of the set ""
or a traceback."""

from __future__ import annotations

import copy
import json
import os
import sys
import time
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from unittest import mock

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from sslkernels import use_backend
from sslkernels.compat import lightly
from sslkernels.distributed import batch
from sslkernels.distributed.parts import widths
from sslkernels.losses import (
    BarlowTwinsLoss,
    NTXentLoss,
    SIGReg,
    VICRegLoss,
    barlow_twins_loss,
    nt_xent_loss,
    sigreg_loss,
    vicreg_loss,
)
from tests.losses import (  # add their scenarios
    distributed_nt_xent,  # noqa: F401
    distributed_refusals,  # noqa: F401
)
from tests.losses.distributed_cases import (
    LOSSES,
    PLAIN,
    SCENARIOS,
    Noted,
    close_gradients,
    equal,
    gathered,
    hold,
    raises,
    scenario,
    small_model,
    split,
    step,
    unequal,
    views,
    with_grad,
)

# --- ranks that agree ----------------------------------------------------------------------------


@scenario("agreeing")
def value_and_gradients_of_the_whole_batch():
    for rows in (equal(), unequal()):
        for d in (24, 5):  # wide, and not
            x, y = views(rows, d)
            for name, loss in LOSSES.items():
                try:
                    hold(loss, x, y, rows)
                except AssertionError as error:
                    raise AssertionError(f"{name}, rows {rows}, D = {d}: {error}") from error


@scenario("agreeing")
def middle_dimensions():
    for rows in (equal(), unequal()):
        for d in (24, 5):
            hold(LOSSES["vicreg terms"], *views(rows, 2, 3, d), rows)


@scenario("agreeing")
def other_dtypes_and_backends():
    # float32 next to an offset of 1000 and half precisions: errors of the arithmetic alone, as the
    # float64 reference takes the same rounded input. Gradients round to the input's dtype.
    cases = [(torch.float32, 0.0, 2e-6), (torch.float32, 1e3, 1e-4)]
    cases += [(torch.bfloat16, 0.0, 2**-8), (torch.float16, 0.0, 2**-10)]
    for backend in ("cpu", "torch"):
        for dtype, offset, tolerance in cases:
            for d in (24, 5):
                x, y = views(unequal(), d, dtype=dtype, offset=offset)
                names = ("vicreg", "barlow_twins") if offset else PLAIN
                with use_backend(backend):
                    for name in names:
                        hold(LOSSES[name], x, y, unequal(), tolerance)


@scenario("agreeing")
def autocast_and_default_device_change_nothing():
    x, y = views(equal(), 24, dtype=torch.float32)
    own = split(equal())
    for loss in LOSSES.values():
        before = with_grad(partial(loss, group="world"), x[own], y[own])
        for around in (torch.autocast("cpu", torch.bfloat16), torch.device("meta")):
            with around:
                after = with_grad(partial(loss, group="world"), x[own], y[own])
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@scenario("agreeing")
def one_view_alone_needs_a_gradient():
    rows = equal()
    for d in (24, 5):
        x, y = views(rows, d)
        own = split(rows)
        for name, loss in LOSSES.items():
            for v in (0, 1):
                pair = [x[own].clone(), y[own].clone()]
                pair[v].requires_grad_()
                loss(*pair, group="world").backward()
                whole = with_grad(loss, x, y)[1 + v][own] * dist.get_world_size()
                torch.testing.assert_close(pair[v].grad, whole, msg=lambda m, name=name: name + m)
    with torch.no_grad():
        torch.testing.assert_close(vicreg_loss(x[own], y[own], group="world"), vicreg_loss(x, y))


@scenario("agreeing")
def only_one_rank_needs_a_gradient():
    rows = equal()
    for d in (24, 5):
        x, y = views(rows, d)
        own = split(rows)
        for loss in LOSSES.values():
            a = x[own].clone().requires_grad_(dist.get_rank() == 0)
            value = loss(a, y[own], group="world")
            if dist.get_rank() == 0:  # nobody waits for the backward pass of another
                value.backward()
                whole = with_grad(loss, x, y)[1][own] * dist.get_world_size()
                torch.testing.assert_close(a.grad, whole)


@scenario("agreeing")
def ddp_equals_one_process_and_the_gather():
    for d in (40, 5):
        for rows in (equal(), unequal()):
            a, b = views(rows, 6, seed=2)
            own = split(rows)
            for name, plain in PLAIN.items():
                alone = small_model(d)
                step(alone, plain, a, b)
                ours = DistributedDataParallel(small_model(d))
                step(ours, partial(LOSSES[name], group="world"), a[own], b[own])
                grads = [p.grad for p in ours.parameters()]
                close_gradients(grads, alone.parameters(), f"{name} alone")
                if rows == equal():
                    official = DistributedDataParallel(small_model(d))
                    step(
                        official,
                        lambda x, y, plain=plain: plain(gathered(x), gathered(y)),
                        *(a[own], b[own]),
                    )
                    close_gradients(grads, official.parameters(), f"{name} gathered")


@scenario("agreeing")
def fsdp2_equals_one_process():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    sharded = distribute_tensor(torch.randn(8, 6), mesh, [Shard(0)])
    raises(TypeError, "pass its to_local()", vicreg_loss, sharded, sharded, group="world")
    for name, loss in LOSSES.items():
        a, b = views(equal(), 6, seed=3)
        own = split(equal())
        alone = small_model(40)
        step(alone, loss, a, b)
        ours = small_model(40)
        fully_shard(ours[2], mesh=mesh)
        fully_shard(ours, mesh=mesh)
        step(ours, partial(loss, group=mesh.get_group()), a[own], b[own])
        grads = [p.grad.full_tensor() for p in ours.parameters()]
        close_gradients(grads, alone.parameters(), name)


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


@scenario("agreeing")
def values_are_the_same_on_all_ranks():
    x, y = views(unequal(), 24, dtype=torch.float32)
    own = split(unequal())
    for name in LOSSES:
        values = [LOSSES[name](x[own], y[own], group="world") for _ in range(2)]
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, [float(v) for v in values])
        assert len({v for pair in everyone for v in pair}) == 1, (name, everyone)


@scenario("agreeing")
def nan_on_one_rank_is_nan_on_all():
    for d in (24, 5):
        x, y = (z[split(equal())].clone() for z in views(equal(), d))
        if dist.get_rank() == 1:
            x[0, 0] = torch.nan
        for name, loss in LOSSES.items():
            assert loss(x, y, group="world").isnan(), name


@scenario("agreeing")
def compiled_callers():
    rows = equal()
    x, y = views(rows, 24)
    own = split(rows)
    for name in PLAIN:

        def train(a, b, name=name):
            return LOSSES[name](2 * a, 2 * b, group="world") * 3

        want = with_grad(lambda a, b: LOSSES[name](2 * a, 2 * b) * 3, x, y)  # noqa: B023
        got = with_grad(torch.compile(train, backend="eager"), x[own], y[own])
        torch.testing.assert_close(got[0], want[0])
        torch.testing.assert_close(got[1], want[1][own] * dist.get_world_size())
    whole = torch.compile(train, backend="eager", fullgraph=True)
    raises(torch._dynamo.exc.Unsupported, "", whole, x[own], y[own])


@scenario("agreeing")
def part_of_the_ranks():
    world = dist.get_world_size()
    members = [0, world - 1]
    group = dist.new_group(members)
    x, y = views([3, 3], 24)
    if dist.get_rank() not in members:
        raises(ValueError, "not a member", vicreg_loss, x, y, group=group)
    else:
        own = slice(0, 3) if dist.get_rank() == 0 else slice(3, 6)
        found = with_grad(partial(vicreg_loss, group=group), x[own], y[own])
        wanted = with_grad(vicreg_loss, x, y)
        torch.testing.assert_close(found[0], wanted[0])
        torch.testing.assert_close(found[1], 2 * wanted[1][own])
    alone = [dist.new_group([rank]) for rank in range(world)][dist.get_rank()]
    torch.testing.assert_close(vicreg_loss(x, y, group=alone), vicreg_loss(x, y))


@scenario("agreeing")
def modules_keep_their_group():
    rows = equal()
    x, y = views(rows, 24)
    own = split(rows)
    for kind in (VICRegLoss, BarlowTwinsLoss, NTXentLoss):
        module = copy.deepcopy(kind(group="world"))
        torch.testing.assert_close(module(x[own], y[own]), kind()(x, y))
    module = SIGReg(num_slices=8, group="world")
    for _ in range(2):
        step = int(module.step)
        found = module(x[own])
        torch.testing.assert_close(found, sigreg_loss(x, num_slices=8, step=step))


@scenario("agreeing")
def drop_ins_gather():
    rows = equal()
    x, y = views(rows, 24)
    # Barlow Twins is another loss there: each rank normalizes its own rows (tests/compat).
    for kind in (lightly.VICRegLoss, lightly.NTXentLoss):

        def loss(x, y, group=None, kind=kind):
            return kind(gather_distributed=group is not None)(x, y)

        hold(loss, x, y, rows)


@scenario("agreeing")
def no_second_derivative():
    x, y = (z[split(equal())].clone().requires_grad_() for z in views(equal(), 24))
    for loss in (vicreg_loss, barlow_twins_loss, nt_xent_loss):
        value = loss(x, y, group="world")
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        raises(NotImplementedError, "no second derivative", grad.sum().backward)


@scenario("agreeing")
def learned_weights():
    # A rank's gradient of a weight is a share that DDP averages, as it does the model's.
    losses = {
        "vicreg": lambda x, y, w, group=None: vicreg_loss(x, y, std_coeff=w, group=group),
        "barlow_twins": lambda x, y, w, group=None: barlow_twins_loss(x, y, lambda_=w, group=group),
        "nt_xent": lambda x, y, w, group=None: sum(
            (k + 1) * term
            for k, term in enumerate(NTXentLoss(w, group=group).forward_components(x, y))
        ),
    }
    for rows in (equal(), unequal()):
        x, y = views(rows, 24)
        own = split(rows)
        for name, loss in losses.items():
            ours, whole = (
                torch.full((1,), 0.3, dtype=torch.float64).requires_grad_() for _ in range(2)
            )
            hold(partial(loss, w=0.3), x, y, rows)
            loss(x[own], y[own], ours, "world").backward()
            dist.all_reduce(ours.grad)
            loss(x, y, whole).backward()
            average = ours.grad / dist.get_world_size()
            torch.testing.assert_close(average, whole.grad, msg=lambda m, name=name: name + m)
            hold(partial(loss, w=ours.detach()), x, y, rows)
    # lightly's Barlow Twins is another loss, and linear in its weight.
    x, y = (z[split(equal())] for z in views(equal(), 24))
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    at = [lightly.BarlowTwinsLoss(w, gather_distributed=True) for w in (0.0, 1.0, weight)]
    low, high, value = (loss(x, y) for loss in at)
    value.backward()
    torch.testing.assert_close(weight.grad, high - low)
    bad = torch.tensor(-1.0)
    raises(ValueError, "at least 1e-06", nt_xent_loss, x, y, temperature=bad, group="world")


# --- ranks that fail -----------------------------------------------------------------------------


@scenario("failing")
def stalled_rank_times_out():
    dist.barrier()
    group = dist.new_group(timeout=timedelta(seconds=3))
    x, y = (z[split(equal())] for z in views(equal(), 24))
    vicreg_loss(x, y, group=group)
    if dist.get_rank() == 0:
        start = time.monotonic()
        raises(RuntimeError, "gloo", vicreg_loss, x, y, group=group)
        assert time.monotonic() - start < 20
    dist.barrier()


@scenario("failing")
def dead_rank_fails_the_others():
    x, y = (z[split(equal())] for z in views(equal(), 24))
    if dist.get_rank() == 1:
        os._exit(0)  # as success, or torchrun would end the other ranks before they notice
    start = time.monotonic()
    raises(RuntimeError, "gloo", vicreg_loss, x, y, group="world")
    assert time.monotonic() - start < 20


def main(which: str, folder: str) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    if which == "agreeing":
        raises(RuntimeError, "init_process_group", vicreg_loss, *[torch.eye(2)] * 2, group="world")
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    found = {}
    for name, function in SCENARIOS[which].items():
        try:
            function()
            found[name] = ""
        except Exception:
            found[name] = f"rank {rank}: {traceback.format_exc()}"
        Path(folder, f"{rank}.json").write_text(json.dumps(found))
    if which == "agreeing":
        dist.barrier()  # Gloo may abort a rank that leaves before the others are done
        dist.destroy_process_group()
    else:
        os._exit(0)  # the group is broken: nothing to say goodbye to


if __name__ == "__main__":
    main(*sys.argv[1:])
