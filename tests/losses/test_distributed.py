"""Losses over the ranks of a group: real processes, Gloo, torchrun. What each rank does, and
compares, is in ``distributed_worker.py``; a launch runs all scenarios of a set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

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
from tests import forked

pytestmark = pytest.mark.slow

WORKER = "tests.losses.distributed_worker"
AGREEING = (
    "value_and_gradients_of_the_whole_batch",
    "middle_dimensions",
    "other_dtypes_and_backends",
    "autocast_and_default_device_change_nothing",
    "one_view_alone_needs_a_gradient",
    "only_one_rank_needs_a_gradient",
    "ddp_equals_one_process_and_the_gather",
    "fsdp2_equals_one_process",
    "collectives_and_memory",
    "work_is_shared",
    "drawn_sizes",
    "aligned_columns",
    "agreements_are_kept_on_some_devices",
    "values_are_the_same_on_all_ranks",
    "nan_on_one_rank_is_nan_on_all",
    "compiled_callers",
    "part_of_the_ranks",
    "disagreement_is_the_same_error_everywhere",
    "a_bad_option_on_one_rank_is_an_error_on_all",
    "modules_keep_their_group",
    "drop_ins_gather",
    "no_second_derivative",
    "learned_weights",
    "transforms_are_refused",
    "nt_xent_multiplies_in_kernels",
    "nt_xent_of_half_precision_waits_for_its_scale",
    "nt_xent_at_drawn_sizes",
    "nt_xent_is_the_same_on_any_threads",
    "a_tiny_nt_xent_keeps_its_digits",
)
FAILING = ("stalled_rank_times_out", "dead_rank_fails_the_others")

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch is built without Gloo"
)


def launch(which: str, world: int, folder: Path) -> list[dict[str, str]]:
    """What each rank that lived wrote down."""
    for status, _, err in forked.ranks(["-m", WORKER, which, str(folder)], world):
        assert status == 0, err[-4000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def agreeing(request, tmp_path_factory):
    found = launch("agreeing", request.param, tmp_path_factory.mktemp("agreeing"))
    assert len(found) == request.param
    return found


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    return launch("failing", 2, tmp_path_factory.mktemp("failing"))


@needs_gloo
@pytest.mark.parametrize("name", AGREEING)
def test_ranks(agreeing, name):
    assert all(set(rank) == set(AGREEING) for rank in agreeing)
    assert not any(rank[name] for rank in agreeing), "\n".join(rank[name] for rank in agreeing)


@needs_gloo
@pytest.mark.parametrize("name", FAILING)
def test_ranks_that_fail(failing, name):
    assert set(failing[0]) == set(FAILING)
    assert not failing[0][name]


def losses(group):
    z = torch.eye(3)
    return (
        lambda: vicreg_loss(z, z, group=group),
        lambda: barlow_twins_loss(z, z, group=group),
        lambda: nt_xent_loss(z, z, group=group),
        lambda: sigreg_loss(z, group=group),
        lambda: VICRegLoss(group=group)(z, z),
        lambda: BarlowTwinsLoss(group=group)(z, z),
        lambda: NTXentLoss(group=group)(z, z),
        lambda: SIGReg(group=group)(z),
    )


@pytest.mark.parametrize("group", [7, "World", object()])
def test_what_a_group_is_not(group):
    for call in losses(group):
        with pytest.raises(TypeError, match='group: expected None, "world" or a'):
            call()


def test_world_needs_a_process_group():
    for call in losses("world"):
        with pytest.raises(RuntimeError, match="init_process_group"):
            call()
