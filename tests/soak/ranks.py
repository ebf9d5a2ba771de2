"""Losses and accumulators over the ranks of a process group, with any shares of the rows.

Two processes with Gloo between them live as long as the soak. Both draw the same case, take their
rows of it, and hold what they get to the truth of the whole.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch.distributed as dist

import sslkernels as ssk
from tests.soak import losses
from tests.soak.bounds import hold
from tests.soak.draws import Draw
from tests.soak.moments import Truth, check_moments, check_scatter
from tests.soak.problems import compare
from tests.soak.rows import normalized_std

RANKS = 2
_SHARE = 0.3  # of the largest sizes: every rank computes the whole truth
_SECONDS = 240


def _own(draw: Draw, n: int) -> slice:
    """This rank's rows, at least one."""
    return slice(*draw.cuts(n, RANKS, least=1)[dist.get_rank()])


def case_losses_of_ranks(draw: Draw) -> None:
    draw.scale *= _SHARE
    make = draw.pick((losses.vicreg, losses.barlow_twins, losses.nt_xent, losses.sigreg))
    while True:
        problem = make(draw, two=True) if make is losses.vicreg else make(draw)
        if len(problem.views[0].given) >= RANKS:
            break
    own = _own(draw, len(problem.views[0].given))
    problem = problem._replace(facts=f"{make.__name__}, rows from {own.start}, {problem.facts}")
    compare(problem, group="world", own=own, ranks=RANKS)


def case_moments_of_ranks(draw: Draw) -> None:
    """``all_reduce`` of class moments, pooled scatter and moments of unit rows."""
    draw.scale *= _SHARE
    dtype = draw.dtype()
    n, d = draw.shape(elements=1e6)
    while d > 500:
        n, d = draw.shape(elements=1e6)
    c = draw.size(1, max(2, min(n, 1000)))
    labels = draw.labels(n, c)
    z = draw.embeddings(n, d, dtype)
    own = _own(draw, n)
    facts = f"C = {c}, rows from {own.start}, {z.facts}"
    truth = Truth(z.exact, labels, c)
    mine = z.given[own], labels[own]
    m = ssk.class_moments(*mine, c).all_reduce()
    check_moments(m, truth, dtype, facts, parts=True)
    unit = ssk.NormalizedMoments.empty(d).update(mine[0]).all_reduce()
    hold(f"{facts}: normalized std", unit.std, *normalized_std(z.exact))
    scatter = ssk.PooledScatter.empty(c, d).update(*mine).all_reduce()
    if len(truth.z):
        check_scatter(scatter, truth, dtype, facts, parts=True)


# ---- the two processes ----


def _serve(rank: int, store: str, line: Connection) -> None:
    import tests.conftest  # noqa: F401  (scratch is poisoned here too)
    from tests.soak.run import DISTRIBUTED, tried

    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=_SECONDS),
    )
    while (options := line.recv()) is not None:
        line.send(tried(options, DISTRIBUTED[options.name]))
    dist.destroy_process_group()


class Pair:
    """The processes of a group, started when the first case needs them."""

    _running: Pair | None = None

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("spawn")
        self._lines, self._processes = [], []
        for rank in range(RANKS):
            here, there = context.Pipe()
            arguments = (rank, f"{self._folder.name}/store", there)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            self._lines.append(here)
            self._processes.append(process)

    @classmethod
    def started(cls) -> Pair:
        if cls._running is None:
            cls._running = cls()
        return cls._running

    @classmethod
    def end(cls) -> None:
        """Stop the processes, if there are any."""
        pair, cls._running = cls._running, None
        if pair is None:
            return
        for line in pair._lines:
            line.send(None)
        for process in pair._processes:
            process.join(5)
            process.kill()
        pair._folder.cleanup()

    def ask(self, options: Any) -> str | None:
        """What is wrong with the case on any rank; after that, fresh processes."""
        for line in self._lines:
            line.send(options)
        found = [line.recv() if line.poll(2 * _SECONDS) else "no answer" for line in self._lines]
        wrong = [f"rank {rank}: {text}" for rank, text in enumerate(found) if text]
        if not wrong:
            return None
        Pair.end()
        return "refused" if set(found) == {"refused"} else "; ".join(wrong)
