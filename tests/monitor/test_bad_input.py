"""A clear answer to what users get wrong, and nothing lost."""

import json
import math

import pytest
import torch
from torch import nn

from sslkernels.monitor import EmbeddingMonitor, lightning_callback, records, tensorboard

LABELS = torch.arange(12) % 3
INPUTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))


class Odd(nn.Module):
    """A layer that is never called, one that is called twice, one that gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3)
        self.unused = nn.Linear(3, 3)
        self.again = nn.ReLU()
        self.recurrent = nn.LSTM(3, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.again(self.again(self.encoder(x)))
        return self.recurrent(h.unsqueeze(1))[0][:, 0]


def monitor(layers=("encoder",), train=(INPUTS, LABELS), **options):
    return EmbeddingMonitor(Odd(), layers, train, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": ["encodr"]}, ValueError, r"no module 'encodr'; near matches: 'encoder'"),
        ({"layers": "encoder"}, TypeError, "layers: expected a sequence of names"),
        ({"layers": []}, ValueError, "layers: expected at least one"),
        ({"layers": ["again", "again"]}, ValueError, "layers: 'again' is given twice"),
        ({"pool": "max"}, ValueError, "pool: expected 'mean', 'flatten' or a callable"),
        ({"pool": {"other": "mean"}}, ValueError, "pool: 'other' is not one of the layers"),
        (
            {"train": (INPUTS, LABELS[:5])},
            ValueError,
            "12 inputs, labels of 'labels' 5 rows",
        ),
        ({"train": (INPUTS, LABELS.float())}, ValueError, "labels 'labels': expected integers"),
        ({"train": iter([(INPUTS, LABELS)])}, TypeError, "train: expected .* that can be read"),
        ({"train": [(INPUTS, LABELS)]}, ValueError, "num_classes: needed"),
        ({"train": [INPUTS, LABELS, LABELS]}, TypeError, r"expected batches \(inputs, labels\)"),
        ({"train": []}, ValueError, "train: yields no batch"),
        ({"test": (INPUTS, {"fine": LABELS})}, ValueError, "test: no labeling 'fine'"),
        ({"num_classes": {"fine": 3}}, ValueError, "num_classes: expected the labelings"),
        ({"num_classes": 0}, ValueError, "num_classes"),
        ({"superclasses": {"labels": [0, 0, 1]}}, ValueError, "there is a labeling 'labels'"),
        ({"superclasses": {"super": [0, 1]}}, ValueError, "'super': expected 3 integers"),
        ({"batch_rows": 0}, ValueError, "batch_rows"),
    ],
)
def test_when_made(options, error, message):
    with pytest.raises(error, match=message):
        monitor(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": ["unused"]}, ValueError, "'unused' was not called in one forward pass"),
        ({"layers": ["again"]}, ValueError, "'again' was called 2 times in one forward pass"),
        ({"layers": ["recurrent"]}, TypeError, "it gives a tuple of 2; take the tensor out of it"),
        ({"num_classes": 2}, ValueError, "train: labels 'labels': expected 0 to 1, .* got 2"),
        ({"pool": lambda z: z.sum()}, ValueError, "one row for each of the 12 inputs"),
        ({"pool": lambda z: z.argmax(1)}, ValueError, "expected a floating-point output"),
        ({"pool": lambda z: z.repeat(1, 3000)}, ValueError, "9000 columns, whose scatter takes"),
    ],
)
def test_when_measured(options, error, message):
    with pytest.raises(error, match=message):
        monitor(**options).measure(0)


def test_a_pool_takes_the_tensor_out_of_a_tuple():
    found = monitor(["recurrent"], pool={"recurrent": lambda output: output[0]}).measure(0)
    assert {row["layer"] for row in found} == {"recurrent"}


def test_a_loader_that_yields_other_rows_is_an_error_and_records_nothing(tmp_path):
    data = [(INPUTS, LABELS)]
    watched = monitor(train=data, num_classes=3, out=tmp_path / "rows.jsonl")
    before = watched.measure(0)
    data[0] = (INPUTS, LABELS.flip(0))  # the same rows by class
    watched.measure(1)
    data[0] = (INPUTS, LABELS.roll(1).clamp(max=1))
    with pytest.raises(ValueError, match="other rows than at the first measurement: class 1"):
        watched.measure(2)
    assert len(watched.rows) == 2 * len(before)
    assert len(records.load(tmp_path / "rows.jsonl")) == 2 * len(before)


def test_an_interrupted_file_is_continued(tmp_path):
    path = tmp_path / "rows.jsonl"
    first = monitor(out=path)
    rows = first.measure(0) + first.measure(5)
    with open(path, "a") as file:
        file.write('{"step": 9, "layer": "enc')  # killed while writing
    with pytest.raises(ValueError, match="holds rows already"):
        monitor(out=path)
    again = monitor(out=path, resume=True)
    assert again.rows == rows
    again.measure(5)  # measured once more: the last ones count
    assert len(records.load(path)) == len(rows)
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: not a row"):
        monitor(out=path, resume=True)


def test_what_json_lacks_is_null(tmp_path):
    path = tmp_path / "rows.jsonl"
    model = nn.Linear(4, 2)
    model.weight.data.fill_(math.nan)
    EmbeddingMonitor(model, [""], (INPUTS, LABELS), out=path).measure(0)
    values = [json.loads(text)["value"] for text in path.read_text().splitlines()]
    assert values[0] == 12 and set(values[1:]) == {None}
    assert math.isnan(records.load(path)[-1]["value"])


def test_tensorboard_gets_every_number():
    written = []

    class Writer:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

    watched = monitor(log=tensorboard(Writer()))
    rows = watched.measure(4)
    assert len(written) == len(rows) and all(step == 4 for *_, step in written)


def test_lightning(monkeypatch):
    module = type(pytest)("lightning.pytorch")
    module.Callback = type("Callback", (), {})
    monkeypatch.setitem(__import__("sys").modules, "lightning", type(pytest)("lightning"))
    monkeypatch.setitem(__import__("sys").modules, "lightning.pytorch", module)
    callback = lightning_callback(
        lambda model: EmbeddingMonitor(model, ["encoder"], (INPUTS, LABELS)), every_n_epochs=2
    )
    trainer = type("Trainer", (), {"global_step": 0, "current_epoch": 0})()
    model = Odd()
    callback.on_fit_start(trainer, model)
    for epoch in range(4):
        trainer.current_epoch, trainer.global_step = epoch, 10 * (epoch + 1)
        callback.on_train_batch_end(trainer, model, None, None, 0)
        callback.on_train_epoch_end(trainer, model)
    assert sorted({row["step"] for row in callback.monitor.rows}) == [0, 20, 40]
