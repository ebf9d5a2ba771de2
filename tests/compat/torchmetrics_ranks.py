"""What every rank of ``test_torchmetrics.py`` runs: the metrics of all ranks' rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics import MetricCollection

import sslkernels as ssk
from sslkernels.compat.torchmetrics import CDNV, NCCAccuracy, NeuralCollapse
from tests.inputs import labelled

C, D = 4, 6
ROWS = (23, 57, 0, 31)  # of every rank: unequal, and rank 2 of 4 has none


def everything() -> tuple[Tensor, Tensor, list[Tensor]]:
    """All rows, and which are whose: class C - 1 is known to rank 1 alone."""
    data = labelled(sum(ROWS), D, C, seed=5, dtype=torch.float64, offset=100.0)
    world = dist.get_world_size()
    ends = torch.tensor(ROWS).cumsum(0)
    owner = torch.searchsorted(ends, torch.arange(ends[-1]), right=True) % world
    labels = torch.where(owner == 1, data.labels, data.labels % (C - 1))
    return data.z, labels, [(owner == rank).nonzero().squeeze(1) for rank in range(world)]


def close(got: object, want: object) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12, equal_nan=True)


def main() -> None:
    z, labels, owned = everything()
    rank = dist.get_rank()
    mine = owned[rank]
    centers = ssk.class_moments(z, labels, C)
    weight = torch.randn(C, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def results(rows: Tensor) -> dict[str, Tensor]:
        """What one process computes of these rows."""
        m = ssk.class_moments(z[rows], labels[rows], C)
        found = ssk.neural_collapse(z[rows], labels[rows], C, weight=weight)
        scores = ssk.ncc_scores(z[rows], labels[rows], centers, top_k=(1, 2))
        return {
            "CDNV": ssk.cdnv(m),
            "NCCAccuracy": scores.top_k,
            **{name: getattr(found, name) for name in ("nc1", "nc2_norms", "nc2_angles", "nc3")},
        }

    metrics = MetricCollection(
        [CDNV(C, D), NCCAccuracy(centers, top_k=(1, 2)), NeuralCollapse(C, D, weight=weight)]
    )
    for batch in mine.split(10):
        metrics.update(z[batch], labels[batch])
    want = results(torch.cat(owned))
    close(metrics.compute(), want)
    # compute gave every rank its own state back: rows that come later are counted once.
    for batch in mine.split(10):
        metrics.update(z[batch], labels[batch])
    close(metrics.compute(), results(torch.cat([*owned, *owned])))

    # Synchronized by hand, the state is that of all ranks, and the same bits on each.
    metric = CDNV(C, D)
    metric.update(z[mine], labels[mine])
    before = metric.state.clone()
    metric.sync()
    everyone = [torch.empty_like(metric.state) for _ in owned]
    dist.all_gather(everyone, metric.state)
    assert all(torch.equal(other, everyone[0]) for other in everyone)
    assert metric.state[:C].tolist() == torch.bincount(labels, minlength=C).tolist()
    metric.unsync()
    assert torch.equal(metric.state, before)

    # forward: of the rank's batch, or with dist_sync_on_step of all ranks' batches.
    on_step = [batch[:10] for batch in owned]
    for synced in (False, True):
        rows = torch.cat(on_step) if synced else on_step[rank]
        options = {"dist_sync_on_step": synced}
        stepping = [
            CDNV(C, D, **options),
            NCCAccuracy(centers, top_k=(1, 2), **options),
            NeuralCollapse(C, D, weight=weight, **options),
        ]
        for m in stepping:
            step = m(z[on_step[rank]], labels[on_step[rank]])
            got = step if isinstance(step, dict) else {type(m).__name__: step}
            close(got, {name: results(rows)[name] for name in got})
            if len(mine) > 10:
                m.update(z[mine[10:]], labels[mine[10:]])
            final = m.compute()
            got = final if isinstance(final, dict) else {type(m).__name__: final}
            close(got, {name: want[name] for name in got})


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    main()
    dist.barrier()  # Gloo's threads may abort a rank that leaves before the others are done
    dist.destroy_process_group()
