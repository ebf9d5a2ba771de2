"""Ranks that do not do the same: one error on all, at once, and their next calls pair up."""

import json

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.attack.rank_cases import CASES, SCENARIOS, WORLD, work

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available()), reason="torch is built without Gloo"
    ),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each rank heard, from one start of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=WORLD)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("name", CASES)
def test_all_hear_one_error(said, name):
    case = CASES[name]
    (kind, words), (own_kind, own_words) = (each[name] for each in said)
    assert kind == case.error and case.words in words
    if kind != "RankFailed":  # the rank that it happened on has it as it is
        assert (own_kind, own_words) == (kind, words)


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_scenarios(said, scenario):
    assert [each[scenario] for each in said] == ["fine"] * WORLD
