"""One naming of optimizer state for every engine: ``optimizer.<parameter name>.<state name>``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.errors import CheckpointError

_PREFIX = "optimizer."


def _names_in_optimizer_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter name. Hyperparameters are left out: the spec and the schedule own them.

    Raises:
        CheckpointError: where a state value is not a tensor.
    """
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    tensors: dict[str, Tensor] = {}
    for index, name in enumerate(_names_in_optimizer_order(model, optimizer)):
        for key, value in state.get(index, {}).items():
            if not isinstance(value, Tensor):
                raise CheckpointError(
                    f"State {key!r} of {type(optimizer).__name__} is not a tensor; it cannot be saved."
                )
            tensors[f"{_PREFIX}{name}.{key}"] = value
    return tensors


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore ``optimizer_tensors`` from a mapping that may hold other names too.

    Raises:
        CheckpointError: where a state belongs to no parameter of this optimizer.
    """
    indices = {name: index for index, name in enumerate(_names_in_optimizer_order(model, optimizer))}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        if not full_name.startswith(_PREFIX):
            continue
        name, _, key = full_name[len(_PREFIX) :].rpartition(".")
        if name not in indices:
            raise CheckpointError(f"The checkpoint holds optimizer state of {name!r}, which the model does not have.")
        state.setdefault(indices[name], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
