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

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from sslkernels import use_backend
from sslkernels.compat import lightly
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
    distributed_shares,  # noqa: F401
)
from tests.losses.distributed_cases import (
    LOSSES,
    PLAIN,
    SCENARIOS,
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
