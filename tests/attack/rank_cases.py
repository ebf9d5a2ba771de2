"""What two ranks do in ``test_ranks.py``: calls that differ, and what both must hear."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist

import sslkernels as ssk
from sslkernels.evaluation import run
from sslkernels.statistics.ncc_scores import NCCScoresPass
from sslkernels.statistics.normalized_std import NormalizedMoments
from sslkernels.statistics.pooled_scatter import PooledScatter

WORLD = 2
PATIENCE = timedelta(seconds=20)
Z = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = np.arange(40) % 6
COARSE = Y // 2


class Case(NamedTuple):
    """Arguments of ``evaluate`` on rank 0, what is different on rank 1, and the error of both."""

    rank0: dict[str, Any]
    rank1: dict[str, Any]
    error: str
    words: str


class TwoArguments(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class PickleBomb(Exception):
    def __reduce__(self) -> Any:
        return (int, ("no number",))


class NotAnError(Exception):
    def __reduce__(self) -> Any:
        return (int, ("7",))


class Stream:
    """Batches that can be read again, of a width and type."""

    def __init__(self, dim: int = 3, dtype: torch.dtype = torch.float32, stop: int = 40) -> None:
        self.dim, self.dtype, self.stop = dim, dtype, stop

    def __iter__(self) -> Any:
        z = torch.from_numpy(np.resize(Z, (40, self.dim))).to(self.dtype)
        for i in range(0, self.stop, 8):
            yield z[i : i + 8], torch.from_numpy(Y[i : i + 8])


def fails_in(stage: str, error: Exception) -> dict[str, Any]:
    def on_rows(_: str, now: str, done: int, total: int | None) -> None:
        if now == stage:
            raise error

    return {"on_rows": on_rows}


BOTH: dict[str, Any] = {"z": Z, "labels": Y}
STREAM: dict[str, Any] = {"z": Stream(), "num_classes": 6}
CASES = {
    # what one rank cannot do
    "an option of nothing": Case(BOTH, {"top_k": (0,)}, "ValueError", "top_k"),
    "a chunk of words": Case(BOTH, {"chunk_rows": "many"}, "TypeError", "chunk_rows"),
    "a matrix of words": Case(BOTH, {"cdnv_matrix": "all"}, "ValueError", "cdnv_matrix"),
    "no such device": Case(BOTH, {"device": "abacus"}, "RuntimeError", "abacus"),
    "no such file": Case(BOTH, {"z": "none.npy"}, "DataError", "none.npy"),
    "labels of words": Case(BOTH, {"labels": ["a"] * 40}, "DataError", "No such"),
    "a classifier that does not fit": Case(
        BOTH, {"weight": np.ones((5, 3))}, "ValueError", "weight"
    ),
    "a checkpoint in no folder": Case(BOTH, {"checkpoint": "no/where"}, "DataError", "no/where"),
    # what both can do, but not together
    "another seed": Case(BOTH, {"seed": 1}, "DataError", "seed: rank 0 has 0, rank 1 has 1"),
    "another k": Case(BOTH, {"top_k": (2,)}, "DataError", "ranks disagree on top_k"),
    "no spectrum": Case(BOTH, {"spectrum": False}, "DataError", "ranks disagree on spectrum"),
    "unit rows": Case(BOTH, {"normalize": True}, "DataError", "ranks disagree on normalize"),
    "other chunks": Case(BOTH, {"chunk_rows": 7}, "DataError", "ranks disagree on chunk_rows"),
    "a matrix": Case(BOTH, {"cdnv_matrix": True}, "DataError", "ranks disagree on cdnv_matrix"),
    "more classes": Case(BOTH, {"num_classes": 7}, "DataError", "the numbers of classes"),
    "another name": Case(BOTH, {"labels": {"fine": Y}}, "DataError", "the labelings"),
    "two labelings": Case(BOTH, {"labels": {"labels": Y, "b": Y}}, "DataError", "the labelings"),
    "other labels": Case(BOTH, {"labels": Y[::-1].copy()}, "DataError", "the labels"),
    "no labels": Case(BOTH, {"labels": None}, "DataError", "the labelings"),
    "other superclasses": Case(
        {**BOTH, "superclasses": {"s": [0, 0, 1, 1, 2, 2]}},
        {"superclasses": {"s": [0, 1, 1, 2, 2, 2]}},
        "DataError",
        "the labels",
    ),
    "fewer rows": Case(BOTH, {"z": Z[:30], "labels": Y[:30]}, "DataError", "disagree on"),
    "more columns": Case(BOTH, {"z": np.hstack([Z, Z])}, "DataError", "columns and dtype"),
    "another dtype": Case(BOTH, {"z": Z.astype(np.float64)}, "DataError", "columns and dtype"),
    "layers": Case(BOTH, {"z": {"a": Z}}, "DataError", "the names of the embeddings"),
    "a classifier": Case(BOTH, {"weight": np.ones((6, 3))}, "DataError", "the classifiers"),
    "test rows": Case(BOTH, {"z_test": Z, "labels_test": Y}, "DataError", "test rows"),
    "a view": Case(BOTH, {"z_view": Z}, "DataError", "a second view"),
    "a stream": Case(BOTH, {**STREAM, "labels": None}, "DataError", "streams"),
    "a wider stream": Case(STREAM, {"z": Stream(dim=4)}, "DataError", "columns and dtype"),
    "a stream of doubles": Case(
        STREAM, {"z": Stream(dtype=torch.float64)}, "DataError", "columns and dtype"
    ),
    "an empty stream": Case(STREAM, {"z": Stream(stop=0)}, "DataError", "no rows"),
    "a stream of more classes": Case(STREAM, {"num_classes": 8}, "DataError", "numbers of classes"),
    # errors of classes that do not travel
    "two arguments": Case(
        BOTH, fails_in("moments", TwoArguments(1, 2)), "RankFailed", "rank 1: TwoArguments: 1 and 2"
    ),
    "no pickle": Case(
        BOTH, fails_in("moments", Unpicklable()), "RankFailed", "rank 1: Unpicklable: holds a lock"
    ),
    "no words": Case(BOTH, fails_in("train", Speechless()), "Speechless", ""),
    "a pickle that fails": Case(
        BOTH, fails_in("train", PickleBomb("ah")), "RankFailed", "rank 1: PickleBomb: ah"
    ),
    "a pickle of something else": Case(
        BOTH, fails_in("train", NotAnError("oh")), "RankFailed", "rank 1: NotAnError: oh"
    ),
    "a plain one": Case(BOTH, fails_in("train", KeyError("k")), "KeyError", "k"),
}


def heard(case: Case, rank: int) -> tuple[str, str]:
    """The class and the words of the error of one rank."""
    given = {**case.rank0, **case.rank1} if rank else case.rank0
    try:
        ssk.evaluate(**given, group="world")
    except Exception as error:
        try:
            words = str(error)
        except RuntimeError:
            words = ""
        return type(error).__name__, words
    return "nothing", ""


def pass_that_cannot_be_made(rank: int, folder: str) -> None:
    """One rank has no memory left for the second reading."""
    broken = mock.Mock(side_effect=MemoryError("no room"))
    with mock.patch.object(run, "TrainPass", broken if rank else run.TrainPass):
        assert heard(Case(BOTH, {}, "", ""), rank) == ("MemoryError", "no room")


def result_that_cannot_be_kept(rank: int, folder: str) -> None:
    """One rank's disk is full when it writes its result."""
    given = {**BOTH, "checkpoint": f"{folder}/c"}
    from sslkernels.evaluation.checkpoint import Checkpoint

    full = mock.Mock(side_effect=OSError(28, "No space left on device"))
    with mock.patch.object(Checkpoint, "finish", full if rank else Checkpoint.finish):
        assert heard(Case(given, {}, "", ""), rank)[0] == "OSError"


def rows_of_their_own(rank: int, folder: str) -> None:
    """Labels that one rank alone would take for a coarser form of others, or for complete."""
    fine, coarse, spotted = Y.copy(), COARSE.copy(), COARSE.copy()
    coarse[[3, 9]] = 0  # 3 is not always 1: seen on rank 0 alone
    spotted[25] = -100  # on rank 1 alone
    labels = {"fine": fine, "coarse": coarse, "spotted": spotted}
    classes = {"fine": 6, "coarse": 3, "spotted": 3}
    own = slice(0, 20) if rank == 0 else slice(20, 40)
    batches = iter([(Z[own], {name: y[own] for name, y in labels.items()})])
    spool = f"{folder}/spool{rank}"
    found = ssk.evaluate(batches, num_classes=classes, spool=spool, group="world")
    want = ssk.evaluate(Z, labels, classes)
    for name in labels:
        np.testing.assert_array_equal(found[name].train.counts, want[name].train.counts)
        np.testing.assert_allclose(found[name].cdnv, want[name].cdnv, rtol=1e-5)
        np.testing.assert_allclose(found[name].nc1, want[name].nc1, rtol=1e-5)


def sums_of_other_shapes(rank: int, folder: str) -> None:
    """Statistics that cannot be added up, and one whose own sums are not to be had."""
    m = ssk.class_moments(Z, Y, 6 + rank)
    wide = ssk.class_moments(Z[:, : 3 - rank], Y, 6)
    for name, statistic, words in (
        ("classes", m, "counts of class moments: rank 0 has int64 [6], rank 1 has int64 [7]"),
        ("columns", wide, "mean of class moments: rank 0 has float64 [6, 3]"),
        ("scores", NCCScoresPass(m, top_k=(1,)), "of NCCScoresPass"),
        ("scatter", PooledScatter.empty(6, 3 + rank), "mean of class moments"),
        ("unit rows", NormalizedMoments.empty(3 + rank), "mean of normalized moments"),
    ):
        before = {key: value.clone() for key, value in statistic.state_dict().items()}
        try:
            statistic.all_reduce()
        except ValueError as error:
            assert words in str(error), (name, str(error))
        else:
            raise AssertionError(name)
        after = statistic.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items()), name
    m = ssk.class_moments(Z, Y, 6)
    bad = mock.PropertyMock(side_effect=ValueError("labels: row 3 holds 99"))
    with mock.patch.object(ssk.ClassMoments, "counts", bad if rank else ssk.ClassMoments.counts):
        try:
            m.all_reduce()
        except ValueError as error:
            assert str(error) == (
                "labels: row 3 holds 99"
                if rank
                else "group: rank 1 has no sums: ValueError; its error says why"
            )
        else:
            raise AssertionError("bad labels")


SCENARIOS = (
    pass_that_cannot_be_made,
    result_that_cannot_be_kept,
    rows_of_their_own,
    sums_of_other_shapes,
)


def work(rank: int, folder: str) -> None:
    """One rank: FOLDER/RANK.json says what it heard in every case."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=WORLD, timeout=PATIENCE
    )
    said: dict[str, Any] = {}
    for name, case in CASES.items():
        said[name] = heard(case, rank)
        # The next call pairs up with the other rank's next call.
        names: list[Any] = [None] * WORLD
        dist.all_gather_object(names, name)
        assert names == [name] * WORLD
    for scenario in SCENARIOS:
        try:
            scenario(rank, folder)
            said[scenario.__name__] = "fine"
        except AssertionError as error:
            said[scenario.__name__] = str(error)
    Path(folder, f"{rank}.json").write_text(json.dumps(said))
    dist.barrier()  # Gloo may abort a rank that leaves before the others are done
    dist.destroy_process_group()
