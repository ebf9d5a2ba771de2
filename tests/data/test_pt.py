"""Tensors in .pt files, whatever their layout and whatever torch.save says of them."""

from collections import OrderedDict

import numpy as np
import pytest
import torch

from sslkernels.data import DataError, open_labels, open_source, open_sources
from tests.data.holders import gathered

Z = torch.arange(96, dtype=torch.float32).reshape(12, 8)
Y = torch.arange(24).reshape(12, 2)

EMBEDDINGS = {
    "plain": Z,
    "transposed": Z.reshape(8, 12).T,
    "columns of a wider one": Z[:, 2:5],
    "rows of a longer one": Z[3:7],
    "every other row": Z[::2],
    "one row for all": Z[:1].expand(12, 8),
    "a diagonal": torch.as_strided(Z, (7, 2), (9, 3), 1),
    "one row": Z[:1, ::2],
    "bfloat16": Z.bfloat16(),
    "columns of bfloat16": Z.bfloat16()[:, 1:4],
    "float16": Z.half().T,
    "parameter": torch.nn.Parameter(Z),
    "subclass with attributes": torch.nn.Buffer(Z) if hasattr(torch.nn, "Buffer") else Z,
}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("layout", EMBEDDINGS)
def test_layouts(tmp_path, layout, alone):
    z = EMBEDDINGS[layout]
    torch.save(z if alone else OrderedDict(z=z, other=torch.zeros(3)), tmp_path / "z.pt")
    source = open_source(tmp_path / "z.pt")
    assert source.dtype == z.dtype
    np.testing.assert_array_equal(gathered(source, 5), z.detach().double().numpy())


def test_layers_in_any_layout(tmp_path):
    z = torch.arange(72.0).reshape(4, 6, 3)
    for saved in (z, z.permute(2, 1, 0), z[:, ::2]):
        torch.save({"z": saved}, tmp_path / "z.pt")
        layers = open_sources(f"{tmp_path}/z.pt:z")
        assert list(layers) == [str(i) for i in range(len(saved))]
        for layer, rows in zip(layers.values(), saved, strict=True):
            np.testing.assert_array_equal(gathered(layer), rows.double().numpy())


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
@pytest.mark.parametrize("layout", ["contiguous", "a column", "two labelings"])
def test_labels(tmp_path, dtype, layout):
    y = Y.to(getattr(torch, dtype))
    saved = {"contiguous": y.flatten()[:12].clone(), "a column": y[:, 1], "two labelings": y.T}
    torch.save({"y": saved[layout]}, tmp_path / "y.pt")
    want = {"contiguous": Y.flatten()[:12], "a column": Y[:, 1], "two labelings": Y.T}[layout]
    got = np.stack(list(open_labels(tmp_path / "y.pt", open_source(Z)).values()))
    np.testing.assert_array_equal(got, want.reshape(-1, 12).numpy())


@pytest.mark.parametrize(
    "kind, tensor",
    [
        ("meta", torch.empty(3, 2, device="meta")),
        ("sparse", Z.to_sparse()),
        ("neg", torch._neg_view(Z)),
        ("neg", torch.complex(Z, Z).conj().imag),
        ("conj", torch.complex(Z, Z).conj()),
    ],
)
def test_tensors_without_rows(tmp_path, kind, tensor):
    torch.save({"z": tensor, "plain": Z}, tmp_path / "z.pt")
    np.testing.assert_array_equal(gathered(open_source(f"{tmp_path}/z.pt")), Z.double().numpy())
    with pytest.raises(DataError, match=f"z.pt:z: expected a plain tensor with values, .*{kind}"):
        open_source(f"{tmp_path}/z.pt:z")


def test_what_lies_beside_the_tensors(tmp_path):
    about = {"epoch": 3, "names": ["a", (1, 2.5)], "dtype": torch.float16, "size": Z.shape}
    about |= {"set": {1, 2}, "bytes": b"abc", "array": bytearray(b"x"), "complex": 1j}
    device = torch.device("cpu")
    model = torch.nn.Linear(8, 2).state_dict()
    torch.save({"z": Z, "model": model, "device": device, **about}, tmp_path / "z.pt")
    np.testing.assert_array_equal(gathered(open_source(f"{tmp_path}/z.pt")), Z.double().numpy())
