"""Files that somebody writes to while they are read: an error that names the file, never numbers of
two files mixed, never a dead process."""

import os

import numpy as np
import pytest

import sslkernels as ssk
from sslkernels.data import DataError, formats, open_labels, open_source
from tests.data.holders import save_parquet, save_pt, save_safetensors

ROWS, DIM = 3000, 64  # several pages for each chunk
LABELS = np.arange(ROWS) % 3


def rows(seed):
    return np.random.default_rng(seed).normal(size=(ROWS, DIM)).astype(np.float32)


FORMATS = {
    "npy": np.save,
    "columns.npy": lambda path, z: np.save(path, np.asfortranarray(z)),
    "safetensors": save_safetensors,
    "pt": save_pt,
    "parquet": lambda path, z: save_parquet(path, z, group=500),
}


def replaced(path, save):
    save(path.with_name(f"new.{path.name}"), rows(1))
    keep_times(path, path.with_name(f"new.{path.name}"))
    os.replace(path.with_name(f"new.{path.name}"), path)


def written_again(path, save):
    save(path, rows(1))


def one_byte(path, save):
    with open(path, "r+b") as handle:
        handle.seek(path.stat().st_size // 2)
        handle.write(b"\x7f")


def keep_times(path, other):
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))


CHANGES = {
    "replaced by one of its size and time": replaced,
    "written again": written_again,
    "one byte": one_byte,
    "cut to half": lambda path, save: os.truncate(path, path.stat().st_size // 2),
    "cut to nothing": lambda path, save: os.truncate(path, 0),
    "longer": lambda path, save: os.truncate(path, path.stat().st_size + 9),
    "removed": lambda path, save: path.unlink(),
}


@pytest.fixture(params=FORMATS)
def file(request, tmp_path):
    """A path, and what writes to it; old, so that every change has another time."""
    path, save = tmp_path / f"z.{request.param}", FORMATS[request.param]
    save(path, rows(0))
    os.utime(path, ns=(10**18, 10**18))
    return path, save


@pytest.mark.parametrize("change", CHANGES)
def test_between_two_readings(file, change):
    path, save = file

    def on_rows(name, stage, done, total):
        if stage == "train" and done == 0:
            CHANGES[change](path, save)

    with pytest.raises(DataError) as caught:
        ssk.evaluate(
            path,
            LABELS,
            chunk_rows=1000,
            spectrum=False,
            directional=False,
            uniformity_rows=0,
            on_rows=on_rows,
        )
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("change", CHANGES)
def test_in_the_middle_of_a_reading(file, change):
    path, save = file
    source = open_source(path)
    with pytest.raises(DataError) as caught:
        for chunk in source.chunks(500):
            if chunk.start == 500:
                CHANGES[change](path, save)
            chunk.z.sum()
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("change", CHANGES)
def test_between_opening_and_reading_labels(tmp_path, monkeypatch, change):
    path = tmp_path / "y.npy"
    np.save(path, LABELS)
    os.utime(path, ns=(10**18, 10**18))
    read = formats.FileLabels.read

    def late(labels):
        CHANGES[change](path, lambda to, _: np.save(to, LABELS[::-1]))
        return read(labels)

    monkeypatch.setattr(formats.FileLabels, "read", late)
    with pytest.raises(DataError) as caught:
        open_labels(path, open_source(rows(0)))
    assert str(caught.value).startswith(str(path))
