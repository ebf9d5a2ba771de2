"""``evaluate`` gets the same numbers from every kind of source."""

import numpy as np
import pytest
import torch

import sslkernels as ssk
from tests.data.holders import clip_retrieval, save_npy, save_parquet, save_pt, save_safetensors

RNG = np.random.default_rng(0)
FINE = np.arange(600) % 6
COARSE = FINE // 2
Z = (RNG.normal(size=(6, 8))[FINE] + 0.5 * RNG.normal(size=(600, 8))).astype(np.float32)
LABELS = {"fine": FINE, "coarse": COARSE}


def numbers(*args, **more):
    more = {"chunk_rows": 64, **more}
    rows = ssk.evaluate(*args, **more).rows()
    key = ("embeddings", "labeling", "split", "statistic")
    return {tuple(row[k] for k in key): row["value"] for row in rows}


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True), key


def test_files(tmp_path):
    expected = numbers(Z, LABELS)
    clip = clip_retrieval(tmp_path / "c", np.array_split(Z, 7), **LABELS)
    same(numbers(clip, {name: f"{clip}:{name}" for name in LABELS}), expected)
    for suffix, save in {
        "npy": save_npy,
        "pt": save_pt,
        "safetensors": save_safetensors,
        "parquet": save_parquet,
    }.items():
        save(tmp_path / f"z.{suffix}", Z)
        assert numbers(tmp_path / f"z.{suffix}", LABELS) == expected  # the same chunks


class Loader:
    def __iter__(self):
        for i in range(0, 600, 100):
            part = slice(i, i + 100)
            yield (
                torch.from_numpy(Z[part]),
                {k: torch.from_numpy(v[part]) for k, v in LABELS.items()},
            )


def test_streams(tmp_path):
    classes = {"fine": 6, "coarse": 3}
    expected = numbers(Z, LABELS, classes)
    same(numbers(Loader(), None, classes), expected)
    same(numbers(iter(Loader()), None, classes, spool=tmp_path), expected)
    kept = tmp_path / "z"
    labels = {name: kept / "labels" / name for name in LABELS}
    same(numbers(kept / "embeddings", labels, classes), expected)
