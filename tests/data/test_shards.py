"""Folders of shards: their order, their labels, and every way in which one can be unusable."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.data import DataError, open_labels, open_source
from tests.data.holders import (
    clip_retrieval,
    gathered,
    labelled,
    save_metadata,
    save_parquet,
    save_safetensors,
)

Z = np.arange(60, dtype=np.float32).reshape(12, 5)
Y = np.arange(12)
PARTS = np.split(Z, [3, 5, 9])  # 3, 2, 4 and 3 rows
STARTS = (0, 3, 5, 9, 12)


@pytest.fixture
def clip(tmp_path):
    return clip_retrieval(tmp_path / "laion", PARTS, fine=Y, coarse=Y // 4)


def test_the_layout_of_clip_retrieval(clip):
    for folder in (clip, clip / "img_emb", f"{clip}/img_emb/img_emb_*.npy"):
        source = open_source(folder)
        np.testing.assert_array_equal(gathered(source), Z)
        assert source.locate(5) == f"{clip}/img_emb/img_emb_2.npy: row 0"
        for where in (clip, clip / "img_emb", clip / "metadata", f"{clip}/metadata/*.parquet"):
            assert labelled(source, {"fine": f"{where}:fine", "c": f"{where}:coarse"}) == {
                "fine": Y.tolist(),
                "c": (Y // 4).tolist(),
            }


def test_shards_come_in_the_order_of_their_numbers(tmp_path):
    z = np.arange(24, dtype=np.float32).reshape(12, 2)
    clip_retrieval(tmp_path / "c", np.split(z, 12), y=Y)
    source = open_source(tmp_path / "c")
    np.testing.assert_array_equal(gathered(source), z)
    assert labelled(source, f"{tmp_path}/c:y") == {"labels": Y.tolist()}


def test_shards_of_label_files(clip, tmp_path):
    for folder, values in {"y": Y, "two": np.stack([Y, Y // 4])}.items():
        (tmp_path / folder).mkdir()
        for i, part in enumerate(np.split(values, STARTS[1:-1], axis=-1)):
            np.save(tmp_path / folder / f"label_{i:03d}.npy", part)
    source = open_source(clip)
    assert labelled(source, tmp_path / "y") == {"labels": Y.tolist()}
    assert labelled(source, tmp_path / "two") == {
        "labels[0]": Y.tolist(),
        "labels[1]": (Y // 4).tolist(),
    }
    assert labelled(open_source(Z), tmp_path / "y") == {"labels": Y.tolist()}  # one after another


def test_one_label_file_for_all_shards(clip, tmp_path):
    np.save(tmp_path / "y.npy", Y)
    source = open_source(clip)
    assert labelled(source, tmp_path / "y.npy") == {"labels": Y.tolist()}
    for rank in range(3):
        part = source.part(rank, 3, 2)
        rows = slice(part.offset, part.offset + part.rows)
        assert labelled(part, tmp_path / "y.npy") == {"labels": Y[rows].tolist()}
        assert labelled(part, f"{clip}:fine") == {"labels": Y[rows].tolist()}


def test_labels_in_the_files_of_the_embeddings(tmp_path):
    for i, (z, y) in enumerate(zip(PARTS, np.split(Y, STARTS[1:-1]), strict=True)):
        save_parquet(tmp_path / f"part-{i:05d}-of-00004.parquet", z, y=y)
        save_safetensors(tmp_path / f"z_{i}.safetensors", z, y=torch.as_tensor(y))
    for path in (f"{tmp_path}/*.parquet", f"{tmp_path}/z_*.safetensors"):
        source = open_source(path)
        np.testing.assert_array_equal(gathered(source), Z)
        assert labelled(source, f"{path}:y") == {"labels": Y.tolist()}


def test_parquet_files_without_numbers(tmp_path):
    for name, z, y in zip("dabc", PARTS, np.split(Y, STARTS[1:-1]), strict=True):
        save_parquet(tmp_path / f"part-{name}.c000.parquet", z, y=y)
    order = [1, 2, 3, 0]
    source = open_source(tmp_path)
    np.testing.assert_array_equal(gathered(source), np.concatenate([PARTS[i] for i in order]))
    labels = np.concatenate([np.split(Y, STARTS[1:-1])[i] for i in order])
    assert labelled(source, f"{tmp_path}:y") == {"labels": labels.tolist()}


# ---- shards that cannot be used -------------------------------------------------------------


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def _unreadable(path):
    path.write_bytes(b"\x93NUMPY\x01\x00")


def _emptied(path):
    path.write_bytes(b"")


def _no_rows(path):
    np.save(path, np.empty((0, 5), np.float32))


def _other_dim(path):
    np.save(path, np.zeros((2, 4), np.float32))


def _other_dtype(path):
    np.save(path, np.zeros((2, 5), np.float16))


def _integers(path):
    np.save(path, np.zeros((2, 5), np.int64))


def _one_dim(path):
    np.save(path, np.zeros(2, np.float32))


def _layers(path):
    np.save(path, np.zeros((2, 2, 5), np.float32))


def _pickled(path):
    np.save(path, np.array([[1, None]], dtype=object), allow_pickle=True)


BAD = {  # how: (what the message says, whether the header still tells the rows)
    _truncated: ("truncated: float32 [2, 5] takes 168 bytes, the file has 167", True),
    _unreadable: ("the .npy header cannot be read", False),
    _emptied: ("it is empty", False),
    _no_rows: ("no embeddings in an array of shape [0, 5]", False),
    _other_dim: ("4 columns, but", True),
    _other_dtype: ("dtype float16, but", True),
    _integers: ("embeddings are float16, float32, float64, got int64", True),
    _one_dim: ("got [2]", True),
    _layers: ("shape [L, N, D] in one of several shards", False),
    _pickled: ("pickled Python objects", False),
}


@pytest.mark.parametrize("which", [0, 1, 3])
@pytest.mark.parametrize("harm", BAD)
def test_a_bad_shard(clip, tmp_path, harm, which):
    path = clip / "img_emb" / f"img_emb_{which}.npy"
    rows = len(PARTS[which])
    if harm is _truncated:
        np.save(path, np.zeros((2, 5), np.float32))
        rows = 2
    harm(path)
    reason, counted = BAD[harm]
    with pytest.raises(DataError) as caught:
        open_source(clip)
    assert str(caught.value).startswith(str(path)) and reason in str(caught.value)

    source = open_source(clip, skip_bad=True)
    kept = [i for i in range(4) if i != which]
    np.testing.assert_array_equal(gathered(source), np.concatenate([PARTS[i] for i in kept]))
    assert source.skipped == [str(caught.value)]
    labels = np.concatenate([np.split(Y, STARTS[1:-1])[i] for i in kept])
    assert labelled(source, f"{clip}:fine") == {"labels": labels.tolist()}

    rows = 2 if counted else rows
    y = np.concatenate(
        [np.split(Y, STARTS[1:-1])[i] if i != which else np.full(rows, 99) for i in range(4)]
    )
    np.save(tmp_path / "y.npy", y)
    if counted:
        assert labelled(source, tmp_path / "y.npy") == {"labels": labels.tolist()}
        np.save(tmp_path / "y.npy", labels)
        with pytest.raises(DataError, match=r"rows of .* and the 2 left out"):
            open_labels(tmp_path / "y.npy", source, skip_bad=True)
    elif harm is not _no_rows:
        with pytest.raises(DataError, match=r"img_emb_\d.npy, which was left out, cannot be count"):
            open_labels(tmp_path / "y.npy", source, skip_bad=True)


def test_several_bad_shards_and_one_label_file(clip, tmp_path):
    _other_dim(clip / "img_emb" / "img_emb_0.npy")
    _no_rows(clip / "img_emb" / "img_emb_1.npy")
    _other_dtype(clip / "img_emb" / "img_emb_3.npy")
    source = open_source(clip, skip_bad=True)
    assert len(source.skipped) == 3
    np.save(tmp_path / "y.npy", np.array([9, 9, 4, 5, 6, 7, 9, 9]))
    assert labelled(source, tmp_path / "y.npy") == {"labels": [4, 5, 6, 7]}


def test_nothing_but_bad_shards(clip):
    for path in (clip / "img_emb").iterdir():
        _emptied(path)
    with pytest.raises(DataError, match=r"no shard can be used; the first: .*img_emb_0.npy"):
        open_source(clip, skip_bad=True)


def test_the_odd_one_is_named_even_if_it_comes_first(clip):
    _other_dim(clip / "img_emb" / "img_emb_0.npy")
    with pytest.raises(DataError, match=r"img_emb_0.npy: 4 columns, but .*img_emb_1.npy has 5"):
        open_source(clip)


def test_a_shard_without_labels(clip):
    (clip / "metadata" / "metadata_1.parquet").unlink()
    source = open_source(clip)
    with pytest.raises(DataError, match=r"no shard of labels has the number of .*img_emb_1.npy"):
        open_labels(f"{clip}:fine", source)
    found = labelled(source, f"{clip}:fine", skip_bad=True)["labels"]
    assert found == [0, 1, 2, -100, -100, 5, 6, 7, 8, 9, 10, 11]
    assert "img_emb_1.npy; 2 rows have no label of labels" in source.skipped[0]


def test_labels_without_a_shard(clip):
    (clip / "img_emb" / "img_emb_2.npy").unlink()
    source = open_source(clip)
    with pytest.raises(DataError, match=r"metadata_2.parquet: no shard of .* has its number"):
        open_labels(f"{clip}:fine", source)
    found = labelled(source, f"{clip}:fine", skip_bad=True)["labels"]
    assert found == [0, 1, 2, 3, 4, 9, 10, 11] and len(source.skipped) == 1


@pytest.mark.parametrize(
    "values, reason",
    [
        ([3], "1 labels for the 2 rows of"),
        ([3, 4, 5], "3 labels for the 2 rows of"),
        (["a", "b"], "labels are integers, got"),
        ([3.0, 4.0], "labels are integers, got double"),
        ([3, -2], "metadata_1.parquet:fine: row 1 holds -2"),
        ([3, None], "metadata_1.parquet:fine: row 1 is null"),
    ],
)
def test_bad_labels_of_one_shard(clip, values, reason):
    path = clip / "metadata" / "metadata_1.parquet"
    save_metadata(path, fine=values, coarse=values)
    with pytest.raises(DataError) as caught:
        open_labels(f"{clip}:fine", open_source(clip))
    assert str(path) in str(caught.value) and reason in str(caught.value)


def test_uint64_labels_out_of_range(clip):
    values = np.array([3, 2**63], np.uint64)
    save_metadata(clip / "metadata" / "metadata_1.parquet", fine=values)
    with pytest.raises(DataError, match="fine: row 1 holds 9223372036854775808"):
        open_labels(f"{clip}:fine", open_source(clip))


def test_no_shard_of_labels_will_do(clip):
    with pytest.raises(DataError, match="no column 'none'"):
        open_labels(f"{clip}:none", open_source(clip))
    with pytest.raises(DataError, match="no shard of labels can be used"):
        open_labels(f"{clip}:none", open_source(clip), skip_bad=True)


def test_folders_that_do_not_say_which_files(tmp_path):
    with pytest.raises(DataError, match=r"the folder holds no \.npy"):
        open_source(tmp_path)
    np.save(tmp_path / "img_emb_0.npy", Z)
    np.save(tmp_path / "labels.npy", Y)
    with pytest.raises(DataError, match=r"several series of shards \(img_emb_\*\.npy, labels"):
        open_source(tmp_path)
    assert open_source(f"{tmp_path}/img_emb_*.npy").rows == 12
    np.save(tmp_path / "img_emb_00.npy", Z)
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(DataError, match="has the number of img_emb_0"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="no such files"):
        open_source(f"{tmp_path}/text_emb_*.npy")


def test_files_that_are_not_shards_are_ignored(clip):
    (clip / "img_emb" / ".img_emb_9.npy").write_bytes(b"half")
    (clip / "img_emb" / "README.md").write_text("about")
    assert open_source(clip).rows == 12


def test_an_archive_is_refused(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, z=Z)
    (tmp_path / "z.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="zip archive"):
        open_source(tmp_path / "z.npz")


# ---- rows and labels stay together, whatever is left out --------------------------------------


HARMS = st.sampled_from([None, None, *BAD, "no labels", "labels too short", "labels unreadable"])


def _harm_labels(path, how):
    if how == "no labels":
        path.unlink()
    elif how == "labels too short":
        save_metadata(path, y=np.zeros(40, np.int64))
    else:
        path.write_bytes(b"PAR1")


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_rows_keep_their_labels(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bank")
    sizes = data.draw(st.lists(st.integers(2, 6), min_size=2, max_size=14), label="sizes")
    harms = data.draw(st.lists(HARMS, min_size=len(sizes), max_size=len(sizes)), label="harms")
    good = data.draw(st.integers(0, len(sizes) - 1), label="good")
    sizes[good], harms[good] = 40, None  # what most rows are is not in doubt
    ids = np.arange(sum(sizes))
    parts = np.split(ids, np.cumsum(sizes)[:-1])
    z = np.repeat(ids[:, None], 5, 1).astype(np.float32)  # every row holds its own number
    clip_retrieval(folder, [z[part] for part in parts], y=ids)
    one_file = []
    for i, (part, harm) in enumerate(zip(parts, harms, strict=True)):
        path = folder / "img_emb" / f"img_emb_{i}.npy"
        rows = len(part)
        if callable(harm):
            if harm is _truncated:
                np.save(path, np.zeros((2, 5), np.float32))
            harm(path)
            rows = 2 if BAD[harm][1] else 0
        elif harm:
            _harm_labels(folder / "metadata" / f"metadata_{i}.parquet", harm)
        one_file.append(part if not callable(harm) else np.full(rows, 999))
    source = open_source(folder, skip_bad=True)
    kept = [not callable(harm) for harm in harms]
    unlabelled = np.repeat([isinstance(harm, str) for harm in harms], sizes)
    rows = np.concatenate([part for part, k in zip(parts, kept, strict=True) if k])
    np.testing.assert_array_equal(gathered(source)[:, 0], rows)
    labels = open_labels(f"{folder}:y", source, skip_bad=True)["labels"]
    np.testing.assert_array_equal(labels, np.where(unlabelled[rows], -100, rows))
    assert len(source.skipped) == sum(harm is not None for harm in harms)

    np.save(folder / "y.npy", np.concatenate(one_file))
    counted = all(BAD[harm][1] or harm is _no_rows for harm in harms if callable(harm))
    if counted:
        labels = open_labels(folder / "y.npy", source)["labels"]
        np.testing.assert_array_equal(labels, rows)
    else:
        with pytest.raises(DataError, match="cannot be counted"):
            open_labels(folder / "y.npy", source, skip_bad=True)
    size, world = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 5))
    for rank in range(world):
        part = source.part(rank, world, size)
        if counted:
            own = open_labels(folder / "y.npy", part)["labels"]
            np.testing.assert_array_equal(gathered(part, size)[:, 0], own)
