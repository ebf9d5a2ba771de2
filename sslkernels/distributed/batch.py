"""The agreement of a group's ranks on one call of a loss, and the collectives that follow it."""

from __future__ import annotations

import functools
import hashlib
import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import forward_ad

from sslkernels._checks import FLOAT_DTYPES

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Facts = tuple[tuple[int, ...], bool, bool]  # Batch's rows, need_x, need_y

# Its name from torch 2.13 on, and before.
gather_tensor: Any = getattr(dist, "all_gather_single", None) or getattr(
    dist, "all_gather_into_tensor", None
)

# Where a call that looks like an earlier one to its own rank repeats that one's agreement: ranks
# then exchange nothing but data, no host waits, and a CUDA graph can record the call.
KEPT_ON = frozenset(("cuda", "xpu"))
_KEPT_AT_MOST = 256  # of a group: with a step of SIGReg that is a number, each differs
_kept: weakref.WeakKeyDictionary[Any, dict[tuple[int, ...], _Facts]] = weakref.WeakKeyDictionary()

LOSSES = ("VICReg", "Barlow Twins", "NT-Xent", "SIGReg")

# What every rank sends first, one int64 each.
_FIELDS = ("refused", "loss", "dims", "D", "middle", "dtype", "options", "rows", "need x", "need y")
_MUST_AGREE = {
    "loss": "the loss",
    "dims": "the number of dimensions",
    "D": "D",
    "middle": "the middle dimensions",
    "dtype": "the dtype",
    "options": "the loss's options",
}


class Batch(NamedTuple):
    """The global batch, as every rank of the group knows it."""

    group: Any
    rank: int
    rows: tuple[int, ...]  # of every rank
    need_x: bool  # whether any rank wants this gradient
    need_y: bool

    @classmethod
    def alone(cls, x: Tensor) -> Batch:
        """The rows of this process, of which there is no group."""
        return cls(None, 0, (x.shape[0],), True, True)

    @property
    def world(self) -> int:
        return len(self.rows)

    @property
    def total(self) -> int:
        return sum(self.rows)


def outside_graphs(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Break the graph of torch.compile around ``function``: its collectives are not traced.

    torch.compiler.disable by itself would import the compiler, seconds of it, for everybody.
    """
    disabled: Callable[_Arguments, _Result] | None = None

    @functools.wraps(function)
    def wrapper(*args: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
        nonlocal disabled
        if disabled is None and "torch._dynamo" in sys.modules:
            disabled = torch.compiler.disable(function)
        return (disabled or function)(*args, **keywords)

    return wrapper


def valid_group(group: Any) -> Any:
    """The ``group`` argument of a loss: None, "world" or a process group this rank is in."""
    if group is None or (isinstance(group, str) and group == "world"):
        return group
    if dist.is_available():
        if isinstance(group, dist.ProcessGroup):
            return group
        if group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("group: this rank is not a member of it")
    raise TypeError(
        'group: expected None, "world" or a torch.distributed process group, got '
        + (repr(group) if isinstance(group, str) else type(group).__name__)
    )


def found_group(group: Any) -> Any:
    """The process group meant by ``group``, at the time of the call; None for a single rank."""
    group = valid_group(group)
    if group is None:
        return None
    if isinstance(group, str):
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                'group: "world" needs torch.distributed.init_process_group to be called first'
            )
        group = dist.group.WORLD
    return None if group.size() == 1 else group


@outside_graphs
def agree(
    group: Any,
    loss: str,
    check: Callable[[], None],
    views: tuple[Tensor, ...],
    options: tuple[Any, ...],
    min_rows: int,
) -> Batch:
    """Check the rank's own views, then compare with every other rank's, as they now are or, on
    devices of ``KEPT_ON``, as they were when this rank's were the same.

    Args:
        check: raises for bad views or options. The rank sends word of that before it raises, so
            that the others raise too instead of waiting for it.
        views: one or two, [n, ..., D].
        options: what must be equal on all ranks besides; compared by a hash of their repr.
        min_rows: of the global batch.

    Raises:
        ValueError: on every rank, if ranks disagree or one refused its views.
    """
    device_types = _device_types(group)
    kept = _kept.setdefault(group, {})
    header = [1] + [0] * (len(_FIELDS) - 1)  # refused
    error: Exception | None = None
    try:
        check()
        _check_device(views[0], device_types)
        _check_transforms(views)
        header = _header(loss, views, options)
    except Exception as refusal:  # whatever it is: the others wait for word of it
        error = refusal
    if error and kept:  # the others may be past any exchange
        raise error
    own = tuple(header)
    keeps = not error and views[0].device.type in KEPT_ON
    if keeps and own in kept:
        return Batch(group, group.rank(), *kept[own])
    table = _exchange(group, header, views[0], device_types)
    if error:
        raise error
    _compare(table)
    columns = dict(zip(_FIELDS, zip(*table, strict=True), strict=True))
    rows = columns["rows"]
    if sum(rows) < min_rows:
        raise ValueError(f"group: needs at least {min_rows} rows on all ranks, got {list(rows)}")
    facts = rows, any(columns["need x"]), any(columns["need y"])
    if keeps:
        if len(kept) == _KEPT_AT_MOST:
            kept.clear()
        kept[own] = facts
    return Batch(group, group.rank(), *facts)


def _header(loss: str, views: tuple[Tensor, ...], options: tuple[Any, ...]) -> list[int]:
    z = views[0]
    needs = [torch.is_grad_enabled() and view.requires_grad for view in views]
    return [
        0,
        LOSSES.index(loss),
        z.ndim,
        z.shape[-1],
        _hash(tuple(z.shape[1:-1])),
        FLOAT_DTYPES.index(z.dtype),
        _hash(options),
        z.shape[0],
        int(needs[0]),
        int(needs[-1]),
    ]


def _hash(value: tuple[Any, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=7).digest(), "little")


def _device_types(group: Any) -> list[str]:
    """The devices whose tensors the group can send, from a string like "cpu:gloo,cuda:nccl"."""
    return [part.split(":")[0] for part in dist.get_backend_config(group).split(",")]


def _check_device(z: Tensor, device_types: list[str]) -> None:
    if hasattr(z, "to_local"):
        raise TypeError("group: expected plain tensors, got a DTensor: pass its to_local()")
    if z.device.type not in device_types:
        raise ValueError(
            f"group: its backends send tensors on {' and '.join(device_types)}, and the views are "
            f"on {z.device}"
        )


def _check_transforms(views: tuple[Tensor, ...]) -> None:
    dual = forward_ad._current_level >= 0 and any(
        forward_ad.unpack_dual(view).tangent is not None for view in views
    )
    if dual or torch._C._are_functorch_transforms_active():
        raise TypeError(
            "group: no forward-mode derivative and no transform of torch.func (grad, vmap, ...) "
            "goes through collectives: use torch.autograd, or group=None"
        )


def _exchange(group: Any, header: list[int], z: Any, device_types: list[str]) -> list[list[int]]:
    """Every rank's header, by way of the CPU if the group can: a GPU then never waits."""
    if "cpu" in device_types:
        device = torch.device("cpu")
    elif isinstance(z, Tensor) and z.device.type in device_types:
        device = z.device
    else:
        device = torch.device(device_types[0])
    own = torch.tensor(header, dtype=torch.int64, device=device)
    table = own.new_empty(group.size() * len(header))
    gather_tensor(table, own, group=group)
    return table.view(group.size(), -1).tolist()


def _compare(table: list[list[int]]) -> None:
    refused = [rank for rank, row in enumerate(table) if row[0]]
    if refused:
        raise ValueError(f"group: rank {refused[0]} refused its own input; its error says why")
    shown: dict[str, Callable[[int], object]] = {
        "loss": lambda index: LOSSES[index],
        "dtype": lambda index: str(FLOAT_DTYPES[index])[6:],
        "dims": int,
        "D": int,
    }
    for i, field in enumerate(_FIELDS):
        values = [row[i] for row in table]
        other = next((r for r, value in enumerate(values) if value != values[0]), None)
        if field not in _MUST_AGREE or other is None:
            continue
        show = shown.get(field)
        detail = (
            f"rank 0 has {show(values[0])}, rank {other} has {show(values[other])}"
            if show
            else f"those of rank 0 and rank {other} differ"
        )
        raise ValueError(f"group: ranks disagree on {_MUST_AGREE[field]}: {detail}")


def gather(batch: Batch, own: Tensor) -> Tensor:
    """[W, *shape]: every rank's tensor of the same shape."""
    if batch.world == 1:
        return own.unsqueeze(0)
    everyone = own.new_empty((batch.world * own.shape[0], *own.shape[1:]))
    gather_tensor(everyone, own, group=batch.group)
    return everyone.unflatten(0, (batch.world, own.shape[0]))


def all_rows(batch: Batch, own: Tensor) -> Tensor:
    """Every rank's rows [n, ...], rank after rank."""
    most = max(batch.rows)
    if min(batch.rows) == most:
        return gather(batch, own).flatten(0, 1)
    filled = own.new_zeros((most, *own.shape[1:]))
    filled[: len(own)] = own
    everyone = gather(batch, filled)
    return torch.cat([rows[:n] for rows, n in zip(everyone, batch.rows, strict=True)])


def add_up(batch: Batch, own: Tensor) -> Tensor:
    """The sum over ranks, in place."""
    dist.all_reduce(own, group=batch.group)
    return own


class _Constant(torch.autograd.Function):
    """Reached with create_graph=True only; says so if that graph is ever walked."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise NotImplementedError(
            "the loss is differentiable once: no second derivative (double backward) is implemented"
        )


def once_differentiable(
    backward: Callable[[Any, Tensor], tuple[Tensor | None, ...]],
) -> Callable[[Any, Tensor], tuple[Tensor | None, ...]]:
    """A backward pass that has no derivative, of a Function that saved its views x and y first.

    torch's own decorator takes the result for a constant if the incoming gradient is one.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            grads = backward(ctx, grad)
        if not torch.is_grad_enabled():
            return grads
        x, y = ctx.saved_tensors[:2]
        return tuple(None if g is None else _Constant.apply(g, grad, x, y) for g in grads)

    return wrapper
