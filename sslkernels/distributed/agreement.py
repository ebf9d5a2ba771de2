"""What ranks compare before they add anything up, so that no call of one pairs up with another call
of others: a difference, or an error on one rank, is one error on all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

_SHOWN = 60  # characters of a value that ranks disagree on


def agree_on_shapes(group: Any, name: str, tensors: Callable[[], Mapping[str, Tensor]]) -> None:
    """Make sure that the sums of all ranks can be added up.

    Args:
        group: a ``torch.distributed`` process group, or None for all ranks.
        name: of what is summed.
        tensors: the sums by name; may raise, and then every rank does.

    Raises:
        ValueError: on every rank, if names, shapes or dtypes differ, or a rank raised; that one has
            its own error.
    """
    facts: dict[str, str] = {}
    error: Exception | None = None
    try:
        facts = {
            f"{key} of {name}": f"{str(tensor.dtype)[6:]} {list(tensor.shape)}"
            for key, tensor in tensors().items()
        }
    except Exception as failure:  # whatever it is: the others wait for word of it
        error = failure
        facts = {"": type(failure).__name__}
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, facts, group=group)
    if error is not None:
        raise error
    for rank, theirs in enumerate(everyone):
        if "" in theirs:
            raise ValueError(f"group: rank {rank} has no sums: {theirs['']}; its error says why")
    if words := disagreement(everyone):
        raise ValueError(f"group: {words}")


def disagreement(everyone: Sequence[Mapping[str, str]]) -> str | None:
    """The first difference between the facts of rank 0 and those of others, in words."""
    for rank, theirs in enumerate(everyone):
        for name in dict.fromkeys([*everyone[0], *theirs]):
            first, other = (about.get(name, "none") for about in (everyone[0], theirs))
            if first != other:
                return (
                    f"ranks disagree on {name}: rank 0 has {first[:_SHOWN]}, "
                    f"rank {rank} has {other[:_SHOWN]}"
                )
    return None
