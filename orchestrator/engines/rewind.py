"""Back to an earlier moment of a training: a copy of all that its steps change, in host memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def remember(tensors: Iterable[Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Copy tensors, and what an optimizer keeps of its parameters and groups.

    Args:
        tensors: the model's parameters and buffers, whole or DTensors.
        optimizer: whose state is tensors.

    Returns:
        What puts all of it back in place, to the last bit; state that has come since is forgotten.
    """
    state = {parameter: dict(values) for parameter, values in optimizer.state.items()}
    live = [*tensors, *(value for values in state.values() for value in values.values())]
    copies = [(tensor, _local(tensor).to("cpu", copy=True)) for tensor in live]
    groups = [
        copy.deepcopy({name: value for name, value in group.items() if name != "params"})
        for group in optimizer.param_groups
    ]

    def put_back() -> None:
        optimizer.state.clear()
        optimizer.state.update({parameter: dict(values) for parameter, values in state.items()})
        for tensor, kept in copies:
            _local(tensor).copy_(kept)
        for group, numbers in zip(optimizer.param_groups, groups, strict=True):
            group.update(copy.deepcopy(numbers))

    return put_back


def _local(tensor: Tensor) -> Tensor:
    """What this rank holds, as it lives."""
    with torch.no_grad():
        return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
