"""The same rows held in every way that a source can be opened from."""

import itertools

import numpy as np
import pytest
import torch

from sslkernels.data import open_labels


def gathered(source, rows=7, first=0):
    """The rows of a source in order, as float64 NumPy; starts must follow each other."""
    chunks = list(source.chunks(rows, first))
    for before, after in itertools.pairwise(chunks):
        assert after.start == before.start + len(before.z)
    if not chunks:
        return np.empty((0, source.dim))
    return torch.cat([chunk.z.double() for chunk in chunks]).numpy()


def labelled(source, labels, **more):
    """``{name: labels}`` as lists."""
    return {name: values.tolist() for name, values in open_labels(labels, source, **more).items()}


def save_npy(path, z):
    np.save(path, z)


def save_safetensors(path, z, **more):
    save = pytest.importorskip("safetensors.torch").save_file
    save({"z": torch.as_tensor(z), **more}, str(path))


def save_pt(path, z, **more):
    torch.save({"z": torch.as_tensor(z), **more}, path)


def save_parquet(path, z, *, fixed=True, group=None, **columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    values = pa.array(np.ascontiguousarray(z).reshape(-1))
    if fixed:
        lists = pa.FixedSizeListArray.from_arrays(values, z.shape[1])
    else:
        offsets = np.arange(0, len(values) + 1, max(z.shape[1], 1), dtype=np.int32)
        lists = pa.ListArray.from_arrays(offsets, values)
    table = pa.table({"z": lists, **columns})
    pq.write_table(table, path, row_group_size=group)


def save_metadata(path, **columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def clip_retrieval(folder, shards, **columns):
    """The layout of clip-retrieval: img_emb/img_emb_0.npy, metadata/metadata_0.parquet."""
    (folder / "img_emb").mkdir(parents=True)
    start = 0
    for i, z in enumerate(shards):
        np.save(folder / "img_emb" / f"img_emb_{i}.npy", z)
        part = {key: values[start : start + len(z)] for key, values in columns.items()}
        save_metadata(folder / "metadata" / f"metadata_{i}.parquet", **part)
        start += len(z)
    return folder
