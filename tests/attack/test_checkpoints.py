"""Checkpoints that somebody has written to: refused in one line, and left alone."""

import json
import os

import numpy as np
import pytest

import sslkernels as ssk
from sslkernels.data import DataError

Z = np.random.default_rng(0).normal(size=(60, 4))
Y = {"fine": np.arange(60) % 6}


class Stop(Exception):
    pass


def on_rows(name, stage, rows, total):
    if (name, stage) == ("b", "train") and rows:
        raise Stop


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A checkpoint in the middle: one result, and a stage of the next."""
    path = tmp_path_factory.mktemp("kept") / "c"
    with pytest.raises(Stop):
        ssk.evaluate({"a": Z, "b": Z}, Y, chunk_rows=20, checkpoint=path, on_rows=on_rows)
    return path.read_bytes()


def head(change):
    """A change of what the file says in words."""

    def changed(arrays):
        about = json.loads(arrays["head"].tobytes())
        change(about)
        arrays["head"] = np.frombuffer(json.dumps(about).encode(), np.uint8)

    return changed


def words(text):
    return lambda arrays: arrays.update(head=np.frombuffer(text, np.uint8))


def first_sum(change):
    def changed(arrays):
        name = next(name for name in arrays if name.startswith("moments:"))
        arrays[name] = change(arrays[name])

    return changed


CHANGES = {
    "no head": lambda arrays: arrays.pop("head"),
    "no digest": lambda arrays: arrays.pop("digest"),
    "another digest": lambda arrays: arrays.update(digest=arrays["digest"][::-1]),
    "a digest of words": lambda arrays: arrays.update(digest=np.array("abc")),
    "no sums": lambda arrays: [arrays.pop(name) for name in list(arrays) if ":" in name],
    "another sum": first_sum(lambda values: values + 1),
    "a sum of another shape": first_sum(lambda values: np.stack([values, values])),
    "a sum of words": first_sum(lambda values: np.array("abc")),
    "nothing": words(b""),
    "no JSON": words(b"\xff\xfe"),
    "a number": words(b"1"),
    "nested lists": words(b"[" * 100_000),
    "a huge number": words(b'{"version": ' + b"9" * 5000 + b"}"),
    "no version": head(lambda about: about.pop("version")),
    "no stages": head(lambda about: about.pop("stages")),
    "stages that are a list": head(lambda about: about.update(stages=[])),
    "negative chunks": head(lambda about: about["stages"]["moments"].update(chunks=-1)),
    "more chunks": head(lambda about: about["stages"]["moments"].update(chunks=10**30)),
    "no rows": head(lambda about: about["stages"]["moments"].pop("rows")),
    "an unknown result": head(lambda about: about["results"].update(b={"@": "Popen"})),
    "a result that is a list": head(lambda about: about["results"].update(a=[])),
    "another number": head(lambda about: about["results"]["a"].update(uniformity=0.5)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_written_to(tmp_path, content, change):
    path = tmp_path / "c"
    path.write_bytes(content)
    with np.load(path) as file:
        arrays = dict(file)
    CHANGES[change](arrays)
    with open(path, "wb") as file:
        np.savez(file, **arrays)
    refused(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file(tmp_path, make):
    make(tmp_path / "c")
    with pytest.raises(DataError, match=r"checkpoint .*/c: not a checkpoint .* no regular file"):
        ssk.evaluate(Z, Y, checkpoint=tmp_path / "c")


@pytest.mark.parametrize("seed", range(40))
def test_damaged(tmp_path, content, seed):
    """Somewhere, a few bytes are others."""
    damaged = bytearray(content)
    chance = np.random.default_rng(seed)
    at = chance.integers(0, len(damaged) - 8)
    damaged[at : at + 8] = bytes(chance.integers(0, 256, 8, dtype=np.uint8))
    path = tmp_path / "c"
    path.write_bytes(damaged)
    refused(path, content)


def refused(path, good=None):
    """``good`` is what an undamaged file comes to: damage may lie where a zip holds nothing."""
    before = path.read_bytes()
    try:
        ssk.evaluate({"a": Z, "b": Z}, Y, chunk_rows=20, checkpoint=path, on_rows=on_rows)
    except DataError as error:
        assert str(error).startswith(f"checkpoint {path}: ") and str(error).isprintable()
        assert path.read_bytes() == before
    except Stop:
        assert good is not None
        with np.load(path) as found:
            assert json.loads(found["head"].tobytes())["results"]["a"]
    else:
        raise AssertionError("went to the end")
