"""NT-Xent with lightly's memory bank, step by step beside the original; negative temperatures."""

import copy
import math

import pytest
import torch

from sslkernels.compat._memory_bank import MemoryBank
from sslkernels.compat.lightly import NTXentLoss
from tests.compare import assert_as_good
from tests.compat.compare import assert_same, each_input, each_shape, value_and_gradients, views


def banks(lightly, *arguments, **options):
    """Ours and theirs, whose banks begin with the same random rows."""
    losses = []
    for where in (NTXentLoss, lightly.NTXentLoss):
        torch.manual_seed(0)
        losses.append(where(*arguments, **options))
    assert torch.equal(losses[0].memory_bank.bank, losses[1].memory_bank.bank)
    return losses


# Batches that fit the bank a whole number of times, that do not, and that are larger than it.
@pytest.mark.parametrize("rows", [(16,), (5, 9, 2, 30), (70,)], ids=str)
@pytest.mark.parametrize("temperature", [0.07, 0.5, -0.3])
@each_input
def test_steps(lightly, rows, temperature, dtype, offset):
    ours, theirs = (
        loss.to(dtype) for loss in banks(lightly, temperature, memory_bank_size=(64, 12))
    )
    exact = copy.deepcopy(theirs).double()
    for step in range(9):
        x, y = views((rows[step % len(rows)], 12), dtype, offset)
        x, y = x + step, y - step
        got, eager = (value_and_gradients(loss, x, y) for loss in (ours, theirs))
        want = value_and_gradients(exact, x.double(), y.double())
        times = 64 if dtype == torch.float64 else 16
        for g, e, w in zip(got, eager, want, strict=True):
            assert g.dtype == e.dtype
            assert_as_good(g, e, w, times=times, scale=1 / abs(temperature))
        assert ours.memory_bank.bank_ptr == theirs.memory_bank.bank_ptr
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(
            ours.memory_bank.bank, theirs.memory_bank.bank, rtol=4 * eps, atol=eps
        )


def test_many_tiles(lightly):
    """More logits than are formed at once, and the largest of a row in the last tile."""
    ours, theirs = (loss.double() for loss in banks(lightly, 0.01, (2**20 // 7 + 300, 2)))
    x, y = views((7, 2), torch.float64)
    for loss in (ours, theirs):
        loss.memory_bank.bank[-7:] = torch.nn.functional.normalize(x)
    got, want = (value_and_gradients(loss, x, y) for loss in (ours, theirs))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_the_bank_waits_for_gradients(lightly):
    """It stays as it is where nothing is trained: under no_grad, or where out0 has no gradient."""
    x, y = views((6, 12))
    for loss in banks(lightly, memory_bank_size=(64, 12)):
        before = loss.memory_bank.bank.clone()
        loss(x, y)
        loss(x, y.requires_grad_())
        with torch.no_grad():
            loss(x.requires_grad_(), y)
        assert torch.equal(loss.memory_bank.bank, before) and loss.memory_bank.bank_ptr == 0
        loss(x.requires_grad_(), y.detach()).backward()
        assert not torch.equal(loss.memory_bank.bank[:6], before[:6])
        x, y = x.detach(), y.detach()


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_gradcheck(needs):
    x, y = (z.requires_grad_(n) for z, n in zip(views((5, 4), torch.float64), needs, strict=True))
    loss = NTXentLoss(0.3, memory_bank_size=(9, 4)).double()
    start = loss.memory_bank.bank.clone()

    def afresh(x, y):
        loss.memory_bank.bank.copy_(start)
        return loss(x, y)

    assert torch.autograd.gradcheck(afresh, (x, y))


def test_buffers_and_state_dict(lightly):
    ours, theirs = banks(lightly, memory_bank_size=(64, 12))
    for of in (torch.nn.Module.named_buffers, lambda loss: loss.state_dict().items()):
        got, want = ({name: b.shape for name, b in of(loss)} for loss in (ours, theirs))
        assert got == want
    # In a checkpoint or not, a bank of theirs can go on as one of ours.
    x, y = views((5, 12))
    value_and_gradients(theirs, x, y)
    for (_, mine), (_, buffer) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        mine.copy_(buffer)
    torch.testing.assert_close(ours(x, y), theirs(x, y))


@pytest.mark.parametrize("rows", [1, 2, 8, 16])
@pytest.mark.parametrize("size", [1, 2, 8, 15, 16, 17])
@pytest.mark.parametrize("temperature", [0.1, 1, 7])
def test_bank_of_equal_directions(rows, size, temperature):
    """Once it is full of the positives themselves, all size + 1 logits are equal."""
    x = torch.rand(rows, 1) + 0.1
    x = torch.cat((x, 2 * x), 1).requires_grad_()
    loss = NTXentLoss(temperature, memory_bank_size=(size, 2))
    for _ in range(size // rows + 2):
        value = loss(x, x.detach().flip(0))
    assert value.item() == pytest.approx(math.log(size + 1), abs=2e-6)


def test_small_losses_keep_their_digits():
    x = torch.zeros(3, 4).index_fill_(1, torch.tensor([0]), 1.0).requires_grad_()
    loss = NTXentLoss(0.05, memory_bank_size=(8, 4))
    loss.memory_bank.bank.copy_(-x.detach()[:1].expand(8, 4))
    value = loss(x, x.detach())
    assert value.item() == pytest.approx(8 * math.exp(-40), rel=1e-5)  # eager float32 says 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    x, y = views((8, 12), dtype)
    bank = NTXentLoss(memory_bank_size=(32, 12))
    value, grad, _ = value_and_gradients(copy.deepcopy(bank), x, y)
    want, *_ = value_and_gradients(copy.deepcopy(bank).double(), x.double(), y.double())
    assert value.dtype == torch.float32 and grad.dtype == dtype
    torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = copy.deepcopy(bank)(x.float(), y.float())
    assert torch.equal(inside, copy.deepcopy(bank)(x.float(), y.float()))


def test_no_second_derivative():
    x, y = (z.requires_grad_() for z in views((5, 4)))
    loss = NTXentLoss(memory_bank_size=(9, 4))(x, y)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("size", [-1, (-1, 4), (64, -1), 64, (64,), (64, 1, 1)], ids=str)
def test_bad_size(lightly, size):
    with pytest.raises(ValueError, match="memory_bank_size: "):
        NTXentLoss(memory_bank_size=size)
    with pytest.raises(ValueError, match="emory bank size"):
        lightly.NTXentLoss(memory_bank_size=size)


def test_bad_views(lightly):
    x, y = views((5, 4))
    ours, theirs = banks(lightly, memory_bank_size=[9, 6])
    with pytest.raises(ValueError, match=r"out0: expected 6 columns to match the memory bank, got"):
        ours(x, y)
    with pytest.raises(RuntimeError):
        theirs(x, y)
    with pytest.raises(ValueError, match=r"out1: expected out0's shape \[5, 4\], got \[4, 4\]"):
        ours(x, y[1:])


def test_queue():
    memory = MemoryBank((5, 1))
    memory.bank.fill_(-1)
    steps = [
        (3, 3, [0, 1, 2, -1, -1]),
        (3, 0, [0, 1, 2, 10, 11]),  # the third does not fit: the next ones go to the front
        (5, 0, [20, 21, 22, 23, 24]),
        (7, 0, [30, 31, 32, 33, 34]),
        (1, 1, [40, 31, 32, 33, 34]),
    ]
    for step, (rows, oldest, bank) in enumerate(steps):
        memory.enqueue(10.0 * step + torch.arange(rows)[:, None])
        assert memory.bank_ptr == oldest and memory.bank[:, 0].tolist() == bank


@each_shape
@each_input
@pytest.mark.parametrize("temperature", [-1.0, -0.1, -3e-2])
def test_negative_temperature(lightly, shape, dtype, offset, temperature):
    x, y = views(shape, dtype, offset)
    theirs = lightly.NTXentLoss(temperature)
    assert_same(NTXentLoss(temperature), theirs, x, y, scale=1 / abs(temperature))


@pytest.mark.parametrize("n", range(1, 20))
def test_negative_temperature_is_symmetric(n):
    x, y = torch.randn(2, n, 32)
    loss = NTXentLoss(temperature=-1.0)
    assert loss(x, y).item() == pytest.approx(loss(y, x).item(), abs=1e-5)


@pytest.mark.parametrize("temperature", [1e-7, 1.1e-8, -1e-7])
def test_tiny_temperature(lightly, temperature):
    x, y = views((9, 5), torch.float64)
    got, want = (loss(temperature)(x, y) for loss in (NTXentLoss, lightly.NTXentLoss))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=0)


@pytest.mark.parametrize("temperature", [0.0, 9e-9, -9e-9])
def test_illegal_temperature(lightly, temperature):
    for loss in (NTXentLoss, lightly.NTXentLoss):
        with pytest.raises(ValueError, match="Illegal temperature"):
            loss(temperature=temperature)
