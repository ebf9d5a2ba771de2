"""Two ranks with a share of the rows each record what one process records."""

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from sslkernels.monitor import EmbeddingMonitor

pytestmark = pytest.mark.slow

LABELS = torch.arange(53) % 4
INPUTS = torch.randn(53, 6, generator=torch.Generator().manual_seed(0)) + LABELS[:, None]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(INPUTS.split(10), LABELS.split(10), strict=True))


def measured(train, wrap=lambda model: model, **options):
    test = (INPUTS[:9], LABELS[:9])
    model = wrap(network())
    monitor = EmbeddingMonitor(model, ["0", "2"], train, test=test, num_classes=4, **options)
    return monitor.measure(0)


def work(rank: int, store: str, answers) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    ddp = nn.parallel.DistributedDataParallel
    of_tensors = measured((INPUTS, LABELS), ddp, group="world", batch_rows=8)
    of_batches = measured(batches(), ddp, group="world", keep=True)
    try:
        broken = [(x, y) for x, y in batches()]
        broken[1] = (broken[1][0], broken[1][1] + 90)  # a batch of the second rank
        measured(broken, ddp, group="world")
        failure = ""
    except ValueError as error:
        failure = str(error)
    answers.put((rank, of_tensors, of_batches, failure))
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks(tmp_path):
    context = mp.get_context("spawn")
    answers = context.Queue()
    ranks = mp.spawn(work, (str(tmp_path / "store"), answers), 2, join=False)
    found = [answers.get(timeout=120) for _ in range(2)]
    while not ranks.join():
        pass
    alone = measured((INPUTS, LABELS))
    for _, *results, failure in found:
        for rows in results:
            assert [{**row, "value": 0} for row in rows] == [{**row, "value": 0} for row in alone]
            for row, one in zip(rows, alone, strict=True):
                assert row["value"] == pytest.approx(one["value"], rel=1e-6), one
        assert "expected 0 to 3" in failure
