"""One naming of weights and optimizer state for every engine.

``model.<name of the recipe's state_dict>`` and ``optimizer.<parameter name>.<state name>``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from orchestrator.core.errors import CheckpointError
from orchestrator.core.protocols import CurvatureOptimizer, LossOptimizer
from orchestrator.core.shards import Piece, piece_of

MODEL = "model."
OPTIMIZER = "optimizer."


def model_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The model's parameters and persistent buffers as they live, by the names of its ``state_dict``.

    Returns:
        Every tensor under the first of its names, and the other names of tied tensors with that first one.

    Raises:
        CheckpointError: where ``state_dict`` has an entry that is neither a parameter nor a buffer.
    """
    # First: FSDP2 puts sharded parameters back in place of gathered ones when it is asked for the state.
    state = model.state_dict(keep_vars=True)
    owned = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first_names: dict[int, str] = {}
    for name, value in state.items():
        if id(value) not in owned:
            raise CheckpointError(f"state_dict()[{name!r}] is neither a parameter nor a buffer; it cannot be saved.")
        first = first_names.setdefault(id(value), name)
        if first == name:
            tensors[name] = value
        else:
            tied[name] = first
    return tensors, tied


def model_pieces(model: nn.Module) -> dict[str, Piece]:
    """This rank's pieces of the model, named."""
    return {f"{MODEL}{name}": piece_of(tensor) for name, tensor in model_tensors(model)[0].items()}


def optimizer_pieces(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Piece]:
    """This rank's pieces of the optimizer's state, named. The spec and the schedule own the hyperparameters.

    Raises:
        CheckpointError: where a state value is not a tensor.
    """
    return {
        f"{OPTIMIZER}{name}.{key}": piece_of(value)
        for name, parameter in model.named_parameters()
        for key, value in _state_of(parameter, optimizer)
    }


def _state_of(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for key, value in optimizer.state.get(parameter, {}).items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"State {key!r} of {type(optimizer).__name__} is not a tensor; it cannot be saved.")
        yield key, value


def create_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer allocate its state, for a checkpoint to be read into, without moving a weight.

    Optimizers allocate in their first step: one with zero gradients at a learning rate of zero changes nothing else.
    """
    gradients = {p: p.grad for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    rates = [group["lr"] for group in optimizer.param_groups]
    for parameter in gradients:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    if isinstance(optimizer, LossOptimizer):
        optimizer.take_loss(torch.zeros((), dtype=torch.float64))
    if isinstance(optimizer, CurvatureOptimizer):
        optimizer.take_curvature({parameter: torch.zeros_like(parameter) for parameter in gradients})
    optimizer.step()
    for parameter, gradient in gradients.items():
        parameter.grad = gradient
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def has_optimizer_state(names: frozenset[str]) -> bool:
    """Whether a checkpoint's names include optimizer state; one of before the first step has none."""
    return any(name.startswith(OPTIMIZER) for name in names)
