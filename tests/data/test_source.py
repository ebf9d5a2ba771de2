"""Sources: whatever holds the rows and however they are cut, the same rows in order."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkernels.data import DataError, open_labels, open_source, open_sources

Z = np.arange(33 * 5, dtype=np.float32).reshape(33, 5)


def gathered(source, rows, first=0):
    chunks = list(source.chunks(rows, first))
    if not chunks:
        return 0, np.empty((0, source.dim), np.float32)
    for before, after in itertools.pairwise(chunks):
        assert after.start == before.start + len(before.z)
    return chunks[0].start, torch.cat([z.float() for _, z, _ in chunks]).numpy()


def holders(folder):
    np.save(folder / "z.npy", Z)
    np.save(folder / "f.npy", np.asfortranarray(Z))
    np.save(folder / "big.npy", Z.astype(">f8"))
    return {
        "tensor": torch.from_numpy(Z),
        "strided": torch.from_numpy(np.stack([Z, Z], 2)).unbind(2)[0],
        "needs grad": torch.from_numpy(Z).clone().requires_grad_(),
        "array": Z,
        "reversed": np.ascontiguousarray(Z[::-1])[::-1],
        "memmap": np.load(folder / "z.npy", mmap_mode="r"),
        "private map": np.load(folder / "z.npy", mmap_mode="c"),
        "column map": np.load(folder / "f.npy", mmap_mode="r"),
        "npy": folder / "z.npy",
        "npy str": str(folder / "z.npy"),
        "npy columns": folder / "f.npy",
        "npy big-endian": folder / "big.npy",
    }


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    return holders(tmp_path_factory.mktemp("z"))


KINDS = (
    *("tensor", "strided", "needs grad", "array", "reversed", "memmap", "private map"),
    *("column map", "npy", "npy str", "npy columns", "npy big-endian"),
)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_every_cut_gives_the_same_rows(held, kind, data):
    source = open_source(held[kind])
    assert (source.rows, source.dim) == Z.shape
    rows = data.draw(st.integers(1, 40))
    count = source.num_chunks(rows)
    assert count == -(-33 // rows)
    first = data.draw(st.integers(0, count + 1))
    _, z = gathered(source, rows, first)
    np.testing.assert_array_equal(z, Z[first * rows :])
    world = data.draw(st.integers(1, 6))
    parts = [source.part(rank, world, rows) for rank in range(world)]
    assert [p.offset for p in parts] == list(np.cumsum([0] + [p.rows for p in parts[:-1]]))
    assert sum(p.num_chunks(rows) for p in parts) == count
    np.testing.assert_array_equal(np.concatenate([gathered(p, rows)[1] for p in parts]), Z)


def test_layers_of_one_array(tmp_path):
    layers = np.stack([Z, 2 * Z, 3 * Z])
    np.save(tmp_path / "z.npy", layers)
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    for given_ in (layers, torch.from_numpy(layers), mapped, tmp_path / "z.npy"):
        sources = open_sources(given_)
        assert list(sources) == ["0", "1", "2"]
        for i, source in enumerate(sources.values()):
            np.testing.assert_array_equal(gathered(source, 7)[1], layers[i])
            assert source.locate(3).endswith(f"[{i}]: row 3")
        with pytest.raises(DataError, match="holds 3 sets of embeddings"):
            open_source(given_)


def test_named_sources():
    sources = open_sources({"a": Z, "b": np.stack([Z, Z])})
    assert list(sources) == ["a", "b.0", "b.1"]


@pytest.mark.parametrize(
    "labels, names",
    [
        (np.arange(33, dtype=np.int16), ["labels"]),
        (torch.arange(33), ["labels"]),
        (list(range(33)), ["labels"]),
        (np.arange(66).reshape(2, 33), ["labels[0]", "labels[1]"]),
        ({"fine": np.arange(33), "coarse": [0] * 33}, ["fine", "coarse"]),
    ],
)
def test_labels_in_memory(labels, names):
    source = open_source(Z)
    found = open_labels(labels, source)
    assert list(found) == names
    assert all(v.dtype == np.int64 and v.shape == (33,) for v in found.values())
    part = source.part(1, 2, 4)
    first = next(iter(found.values()))
    np.testing.assert_array_equal(
        next(iter(open_labels(labels, part).values())),
        first[part.offset : part.offset + part.rows],
    )
