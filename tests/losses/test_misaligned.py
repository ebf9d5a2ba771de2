"""Views on memory that starts between two elements, as torch.frombuffer gives them."""

import pytest
import torch

import sslkernels as ssk

LOSSES = {
    "vicreg": ssk.vicreg_loss,
    "barlow_twins": ssk.barlow_twins_loss,
    "nt_xent": ssk.nt_xent_loss,
    "sigreg": lambda x, y: ssk.sigreg_loss(x, num_slices=8) + ssk.sigreg_loss(y, num_slices=8),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_those_of_a_copy(name, dtype, backend):
    size = torch.empty((), dtype=dtype).element_size()
    values = torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    data = bytearray(3 + values.numel() * size)
    data[3:] = values.view(torch.uint8).numpy().tobytes()
    views = torch.frombuffer(data, dtype=dtype, offset=3).view(2, 9, 7)
    assert views.data_ptr() % size
    results = []
    for given in (views, values):
        x, y = (z.detach().requires_grad_() for z in given)
        loss = LOSSES[name](x, y)
        loss.backward()
        results.append((loss.detach(), x.grad, y.grad))
    for ours, plain in zip(*results, strict=True):
        assert torch.equal(ours, plain)
