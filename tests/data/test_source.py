"""Sources: whatever holds the rows and however they are cut, the same rows in order."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.data import DataError, open_labels, open_source, open_sources
from tests.data.holders import gathered, save_npy, save_parquet, save_pt, save_safetensors

Z = np.random.default_rng(0).normal(size=(33, 5)).astype(np.float32)


def in_memory():
    return {
        "tensor": torch.from_numpy(Z),
        "strided": torch.from_numpy(np.stack([Z, Z], 2)).unbind(2)[0],
        "needs grad": torch.from_numpy(Z).clone().requires_grad_(),
        "array": Z,
        "reversed": np.ascontiguousarray(Z[::-1])[::-1],
        "big-endian array": Z.astype(">f4"),
    }


def in_files(folder):
    np.save(folder / "z.npy", Z)
    np.save(folder / "columns.npy", np.asfortranarray(Z))
    np.save(folder / "big.npy", Z.astype(">f8"))
    save_safetensors(folder / "z.safetensors", Z, y=torch.arange(33))
    save_pt(folder / "z.pt", Z, y=torch.arange(33))
    torch.save(torch.from_numpy(Z), folder / "one.pt")
    save_parquet(folder / "fixed.parquet", Z, group=10)
    save_parquet(folder / "lists.parquet", Z, fixed=False, group=4)
    return {
        "memmap": np.load(folder / "z.npy", mmap_mode="r"),
        "private map": np.load(folder / "z.npy", mmap_mode="c"),
        "column map": np.load(folder / "columns.npy", mmap_mode="r"),
        "npy": folder / "z.npy",
        "npy str": str(folder / "z.npy"),
        "npy columns": folder / "columns.npy",
        "npy big-endian": folder / "big.npy",
        "safetensors": folder / "z.safetensors",
        "safetensors key": f"{folder}/z.safetensors:z",
        "pt": folder / "z.pt",
        "pt key": f"{folder}/z.pt:z",
        "pt tensor": folder / "one.pt",
        "parquet fixed": folder / "fixed.parquet",
        "parquet lists": f"{folder}/lists.parquet:z",
    }


FILES = (
    *("memmap", "private map", "column map", "npy", "npy str", "npy columns", "npy big-endian"),
    *("safetensors", "safetensors key", "pt", "pt key", "pt tensor"),
    *("parquet fixed", "parquet lists"),
)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    return {**in_memory(), **in_files(tmp_path_factory.mktemp("z"))}


def check_all_cuts(source, z, data):
    assert (source.rows, source.dim) == z.shape
    rows = data.draw(st.integers(1, len(z) + 5), label="rows")
    whole = list(source.chunks(rows))
    assert len(whole) == source.num_chunks(rows)
    np.testing.assert_array_equal(gathered(source, rows), z)

    first = data.draw(st.integers(0, len(whole) + 1), label="first")
    later = list(source.chunks(rows, first))
    assert [c.start for c in later] == [c.start for c in whole[first:]]
    for a, b in zip(later, whole[first:], strict=True):
        assert torch.equal(a.z, b.z)

    world = data.draw(st.integers(1, 6), label="world")
    parts = [source.part(rank, world, rows) for rank in range(world)]
    chunks = [(p.offset + c.start, c.z) for p in parts for c in p.chunks(rows)]
    assert [p.num_chunks(rows) for p in parts] == [len(list(p.chunks(rows))) for p in parts]
    assert [start for start, _ in chunks] == [c.start for c in whole]
    assert all(torch.equal(a, b.z) for (_, a), b in zip(chunks, whole, strict=True))
    for part in parts:  # no share is further from fair than a chunk
        assert abs(part.rows - len(z) / world) <= rows
        if part.rows:
            assert part.locate(0) == source.locate(part.offset)


@pytest.mark.parametrize("kind", [*in_memory(), *FILES])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_every_cut_gives_the_same_rows(held, kind, data):
    check_all_cuts(open_source(held[kind]), Z, data)


SAVERS = {
    "npy": save_npy,
    "safetensors": save_safetensors,
    "pt": save_pt,
    "parquet": save_parquet,
}


@pytest.mark.parametrize("suffix", SAVERS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_shards_cut_anywhere_give_the_same_rows(tmp_path_factory, suffix, data):
    folder = tmp_path_factory.mktemp("shards")
    cuts = data.draw(st.lists(st.integers(1, 32), max_size=12, unique=True).map(sorted))
    first = data.draw(st.integers(0, 9))  # past 10: the order is that of numbers, not of letters
    for i, part in enumerate(np.split(Z, cuts)):
        SAVERS[suffix](folder / f"z_{first + i}.{suffix}", part)
    check_all_cuts(open_source(folder), Z, data)
    check_all_cuts(open_source(f"{folder}/z_*.{suffix}"), Z, data)


def test_bfloat16(tmp_path):
    z = torch.from_numpy(Z).bfloat16()
    save_safetensors(tmp_path / "z.safetensors", z)
    save_pt(tmp_path / "z.pt", z)
    for opened in (z, tmp_path / "z.safetensors", tmp_path / "z.pt"):
        source = open_source(opened)
        assert source.dtype == torch.bfloat16 and source.row_bytes == 10
        np.testing.assert_array_equal(gathered(source), z.double().numpy())


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_other_dtypes(tmp_path, dtype):
    z = Z.astype(dtype)
    for suffix, save in SAVERS.items():
        save(tmp_path / f"z.{suffix}", z)
        source = open_source(tmp_path / f"z.{suffix}")
        assert source.dtype == torch.from_numpy(z).dtype
        np.testing.assert_array_equal(gathered(source), z)


def test_a_chunk_outlives_its_reader(tmp_path):
    import gc

    chunks = {}
    for suffix in ("npy", "safetensors"):
        SAVERS[suffix](tmp_path / f"z.{suffix}", Z)
        chunks[suffix] = next(open_source(tmp_path / f"z.{suffix}").chunks(8)).z
    gc.collect()
    for z in chunks.values():
        np.testing.assert_array_equal(z, Z[:8])
    source = open_source(Z)
    assert next(source.chunks(8)).z.data_ptr() == Z.ctypes.data


def test_chunks_kept_or_dropped_in_any_order_stay_right(tmp_path):
    z = np.random.default_rng(1).normal(size=(3000, 64)).astype(np.float32)
    np.save(tmp_path / "z.npy", z)
    for held in (tmp_path / "z.npy", np.load(tmp_path / "z.npy", mmap_mode="r")):
        kept = list(open_source(held).chunks(100))
        del kept[::2]
        for chunk in kept:
            np.testing.assert_array_equal(chunk.z, z[chunk.start : chunk.start + 100])


def test_what_is_made_from_a_map(tmp_path):
    np.save(tmp_path / "z.npy", Z)
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    for made in (mapped[4:], mapped[:, 1:3], mapped[::2], mapped[[0, 5]], mapped * 2, mapped.T):
        source, expected = open_source(made), np.array(made)
        for _ in range(2):  # pages dropped after the first reading come back; copies have none
            np.testing.assert_array_equal(gathered(source, 3), expected)


def test_identity_does_not_depend_on_the_current_folder(tmp_path, monkeypatch):
    np.save(tmp_path / "z.npy", Z)
    before = open_source(tmp_path / "z.npy").identity()
    monkeypatch.chdir(tmp_path)
    assert open_source("z.npy").identity() == before


def test_layers_of_one_array(tmp_path):
    layers = np.stack([Z, 2 * Z, 3 * Z])
    np.save(tmp_path / "z.npy", layers)
    save_safetensors(tmp_path / "z.safetensors", layers)
    save_pt(tmp_path / "z.pt", layers)
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    files = (tmp_path / "z.npy", f"{tmp_path}/z.safetensors:z", f"{tmp_path}/z.pt:z")
    for opened in (layers, torch.from_numpy(layers), mapped, *files):
        sources = open_sources(opened)
        assert list(sources) == ["0", "1", "2"]
        for i, source in enumerate(sources.values()):
            np.testing.assert_array_equal(gathered(source), layers[i])
            assert source.locate(3).endswith(f"[{i}]: row 3")
        with pytest.raises(DataError, match="holds 3 sets of embeddings"):
            open_source(opened)
    assert list(open_sources(layers[:1])) == ["0"]


def test_named_sources(tmp_path):
    np.save(tmp_path / "z.npy", Z)
    sources = open_sources({"a": Z, "b": np.stack([Z, Z]), "c": tmp_path / "z.npy"})
    assert list(sources) == ["a", "b.0", "b.1", "c"]
    assert open_source(sources["a"]) is sources["a"]


def test_an_empty_name_is_no_part_of_the_names_of_layers(tmp_path):
    layers = np.stack([Z, 2 * Z])
    np.save(tmp_path / "z.npy", layers)
    for opened in (layers, tmp_path / "z.npy"):
        sources = open_sources({"": opened, "b": Z})
        assert list(sources) == ["0", "1", "b"]
        np.testing.assert_array_equal(gathered(sources["1"]), layers[1])
    assert sources["1"].locate(3) == f"{tmp_path}/z.npy[1]: row 3"
    assert open_sources({"": layers})["1"].locate(3) == "z[1]: row 3"
    assert list(open_sources({"": Z})) == [""]


def test_a_name_given_twice():
    layers = np.stack([Z, Z])
    for opened in ({"": layers, "1": Z}, {"a.1": Z, "a": layers}):
        with pytest.raises(DataError, match=r"z: the name '(a\.)?1' is given twice"):
            open_sources(opened)


def test_a_list_of_files_is_read_in_its_order(tmp_path):
    np.save(tmp_path / "b.npy", Z[:20])
    np.save(tmp_path / "a.npy", Z[20:])
    source = open_source([tmp_path / "b.npy", str(tmp_path / "a.npy")])
    np.testing.assert_array_equal(gathered(source), Z)
    assert source.locate(21) == f"{tmp_path}/a.npy: row 1"


def test_identity_changes_with_the_files(tmp_path):
    np.save(tmp_path / "z.npy", Z)
    before = open_source(tmp_path / "z.npy").identity()
    assert json.loads(json.dumps(before)) == before
    assert open_source(tmp_path / "z.npy").identity() == before
    np.save(tmp_path / "z.npy", Z[:30])
    assert open_source(tmp_path / "z.npy").identity() != before
    part = open_source(Z).part(0, 2, 4)
    assert part.identity() != open_source(Z).identity()
    assert json.dumps(part.identity())


@pytest.mark.parametrize("world, rank", [(2, 2), (2, -1)])
def test_ranks_outside_the_world(world, rank):
    with pytest.raises(ValueError, match="rank: expected 0 to 1"):
        open_source(Z).part(rank, world, 4)


def test_a_part_of_a_part():
    source = open_source(Z)
    inner = source.part(1, 2, 4).part(1, 2, 4)
    np.testing.assert_array_equal(gathered(inner), Z[inner.offset : inner.offset + inner.rows])
    labels = open_labels(np.arange(33), inner)["labels"]
    assert labels.tolist() == list(range(inner.offset, inner.offset + inner.rows))


@pytest.mark.parametrize(
    "z, reason",
    [
        (np.zeros((3, 2), np.int64), "z: embeddings are .* got int64"),
        (np.zeros((3, 2), np.complex64), "got complex64"),
        (np.zeros((3, 2), object), "dtype object"),
        (np.zeros(3, np.float32), r"shape \[N, D\], got \[3\]"),
        (np.zeros((2, 3, 2, 2), np.float32), r"got \[2, 3, 2, 2\]"),
        (np.zeros((0, 2), np.float32), "no embeddings"),
        (np.zeros((3, 0), np.float32), "no embeddings"),
        (np.zeros((0, 3, 2), np.float32), r"got \[0, 3, 2\]"),
        (torch.zeros(3, 2).to_sparse(), "dense"),
        (7, "cannot read embeddings from int"),
        (None, "cannot read embeddings from NoneType"),
        ({}, "an empty dict"),
    ],
)
def test_what_is_not_embeddings(z, reason):
    with pytest.raises(DataError, match=reason):
        open_sources(z)
