"""Iterables of (embeddings, labels): read again for every pass, or kept in a folder."""

import os

import numpy as np
import pytest
import torch

from sslkernels.data import DataError, open_labels, open_source, open_sources
from tests.data.holders import gathered

Z = torch.arange(60, dtype=torch.float32).reshape(12, 5)
Y = torch.arange(12)


class Loader:
    """Batches in the same order every time, as a DataLoader without shuffling."""

    def __init__(self, label=lambda y: y, sizes=(5, 4, 3), dtype=torch.float32):
        self.label, self.sizes, self.dtype, self.readings = label, sizes, dtype, 0

    def __iter__(self):
        self.readings += 1
        for z, y in zip(Z.split(self.sizes), Y.split(self.sizes), strict=True):
            yield z.to(self.dtype), self.label(y)


LABELS = {
    "one": (lambda y: y, ["labels"]),
    "array": (lambda y: y.numpy().astype(np.int16), ["labels"]),
    "list": (lambda y: y.tolist(), ["labels"]),
    "several": (lambda y: torch.stack([y, y]), ["labels[0]", "labels[1]"]),
    "named": (lambda y: {"fine": y, "coarse": y.int()}, ["fine", "coarse"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_batches_are_chunks_as_they_come(kind):
    label, names = LABELS[kind]
    loader = Loader(label)
    source = open_source(loader)
    assert (source.rows, source.dim, source.dtype, source.row_bytes) == (None,) * 4
    assert source.num_chunks(2) is None
    for _ in range(2):
        chunks = list(source.chunks(2))
        assert [c.start for c in chunks] == [0, 5, 9]
        assert torch.equal(torch.cat([c.z for c in chunks]), Z)
        for name in names:
            found = torch.cat([c.labels[name] for c in chunks])
            assert found.dtype == torch.int64 and torch.equal(found, Y)
    assert (source.rows, source.dim, source.dtype) == (12, 5, torch.float32)
    assert source.num_chunks(2) == 3 and loader.readings == 2
    assert [c.start for c in source.chunks(2, first=2)] == [9]
    assert source.part(0, 1, 2) is source and source.locate(3) == "z: row 3"


def test_a_data_loader_with_a_model_in_front():
    data = torch.utils.data.TensorDataset(Z, Y)
    model = torch.nn.Linear(5, 3)

    class Embedded:
        def __iter__(self):
            for x, y in torch.utils.data.DataLoader(data, batch_size=5):
                yield model(x), y

    source = open_source(Embedded())
    z = torch.cat([chunk.z for chunk in source.chunks(1)])
    assert not z.requires_grad and torch.allclose(z, model(Z))
    assert open_source(torch.utils.data.DataLoader(data, batch_size=5)).num_chunks(1) is None


def test_opening_asks_for_no_iterator():
    class Workers:
        def __iter__(self):
            raise AssertionError("workers were started")

    assert open_source(Workers()).rows is None


def test_a_batch_without_rows_is_passed_over():
    source = open_source(Loader(sizes=(5, 0, 7)))
    assert [c.start for c in source.chunks(1)] == [0, 5]


@pytest.mark.parametrize(
    "batches, reason",
    [
        ([], "the iterable yields no rows"),
        ([(Z[:0], Y[:0])], "the iterable yields no rows"),
        ([Z], "expected pairs (embeddings, labels), got Tensor"),
        ([(Z, Y, Y)], "expected pairs (embeddings, labels), got 3 items"),
        (
            [(Z, Y), (Z[:, :3], Y)],
            "z: batch 1 (from row 12): 3 columns of float32 with labels, ear",
        ),
        ([(Z, Y), (Z.double(), Y)], "5 columns of float64 with labels, earlier batches 5"),
        ([(Z, Y), (Z, {"a": Y})], "with a, earlier batches"),
        ([(Z, Y[:3])], "z: batch 0 (from row 0): labels of shape [3] for 12 rows"),
        ([(Z, torch.zeros(2, 3, dtype=torch.int64))], "labels[0] of shape [3] for 12 rows"),
        ([(Z, Z[:, 0])], "labels are integers, got float32"),
        ([(Z.int(), Y)], "embeddings are float16"),
        ([(Z[0], Y)], "got [5]"),
        ([("a", Y)], "expected a torch tensor or a NumPy array, got str"),
    ],
)
def test_bad_batches(batches, reason):
    source = open_source(batches)
    with pytest.raises(DataError) as caught:
        list(source.chunks(1))
    assert reason in str(caught.value)


@pytest.mark.parametrize("change", [(5, 4), (5, 4, 3, 1)])
def test_another_number_of_rows_in_a_later_reading(change):
    class Changing(Loader):
        def __iter__(self):
            self.readings += 1
            rows = torch.cat([Z, Z])
            for size in (5, 4, 3) if self.readings == 1 else change:
                yield rows[:size], torch.zeros(size, dtype=torch.int64)

    source = open_source(Changing())
    list(source.chunks(1))
    with pytest.raises(DataError, match=r"rows in a later reading, 12 in the first"):
        list(source.chunks(1))


def test_a_reading_that_was_broken_off_teaches_nothing():
    source = open_source(Loader())
    next(source.chunks(1))
    assert source.rows is None
    assert len(list(source.chunks(1))) == 3


def test_a_stream_is_not_shared_and_brings_its_own_labels():
    source = open_source(Loader())
    with pytest.raises(DataError, match="cannot be shared by 2 processes"):
        source.part(0, 2, 4)
    with pytest.raises(DataError, match="a stream, which yields labels of its own"):
        open_labels(Y, source)


# ---- one-shot iterators ---------------------------------------------------------------------


def test_a_one_shot_iterator_needs_a_folder():
    with pytest.raises(DataError, match=r"generator can be read only once.*spool=FOLDER"):
        open_source(batch for batch in Loader())


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_one_shot_iterator_is_kept_in_a_folder(tmp_path, monkeypatch, kind, dtype):
    monkeypatch.setattr("sslkernels.data.stream._SPOOL_BYTES", 120)
    label, names = LABELS[kind]
    source = open_source(iter(Loader(label, sizes=[1] * 12, dtype=dtype)), spool=tmp_path / "s")
    assert source.rows == 12
    np.testing.assert_array_equal(gathered(source), Z.numpy())
    assert list(source.labels) == names == list(open_labels(None, source))
    for values in source.labels.values():
        assert values.tolist() == Y.tolist()
    part = source.part(1, 2, 2)
    for values in open_labels(None, part).values():
        assert values.tolist() == Y[part.offset :].tolist()
    again = open_source(tmp_path / "s" / "z" / "embeddings")
    np.testing.assert_array_equal(gathered(again), Z.numpy())
    found = open_labels({n: tmp_path / "s" / "z" / "labels" / n for n in names}, again)
    assert all(values.tolist() == Y.tolist() for values in found.values())
    names_of_files = [name for _, _, files in os.walk(tmp_path) for name in files]
    assert not [name for name in names_of_files if name.startswith(".")]


def test_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "mine.txt").write_text("mine")
    with pytest.raises(
        DataError, match="spool: expected a new or empty folder; to use rows kept ear"
    ):
        open_source(iter(Loader()), spool=tmp_path)


def test_several_iterators_in_one_folder(tmp_path):
    sources = open_sources({"a": iter(Loader()), "b": iter(Loader())}, spool=tmp_path)
    for name, source in sources.items():
        assert source.private and source.locate(0).startswith(f"{tmp_path}/{name}/embeddings/")
        np.testing.assert_array_equal(gathered(source), Z.numpy())


def test_negative_labels_in_a_spool(tmp_path):
    source = open_source(iter([(Z, Y - 2)]), spool=tmp_path)
    with pytest.raises(DataError, match="z: labels: row 0 holds -2"):
        open_labels(None, source)
    assert open_labels(None, open_source(iter([(Z, Y - 1)]), spool=tmp_path / "b"), ignore_index=-1)


def test_a_name_that_is_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"the name '\.\./x' cannot be that of a folder"):
        open_source(iter([(Z, {"../x": Y})]), spool=tmp_path)


def test_an_iterator_that_fails_leaves_no_half_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("sslkernels.data.stream._SPOOL_BYTES", 1)

    def failing():
        yield Z, Y
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        open_source(failing(), spool=tmp_path)
    assert open_source(tmp_path / "z" / "embeddings").rows == 12
