"""The batch norms of a recipe's model: where they are, and how their running statistics move."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.core.errors import RecipeError
from orchestrator.modulate.model.layers import has_forward_of, layer_names


def batch_norms(model: nn.Module, modulator: str) -> dict[str, _BatchNorm]:
    """The batch norms of a model by dotted name.

    Raises:
        RecipeError: where it has none, or one of a class with a forward of its own, which cannot be replaced.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if not found:
        raise RecipeError(
            f"modulators: {modulator} changes batch norms, and {type(model).__name__} has none; its layers are "
            f"{layer_names(model)}."
        )
    for name, module in found.items():
        if not has_forward_of(module, (_BatchNorm, nn.SyncBatchNorm)):
            raise RecipeError(
                f"modulators: {modulator} cannot change {name or 'the model'}, a {type(module).__name__} with a "
                "forward of its own. Legal: torch's BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm."
            )
    return found


def is_recomputed() -> bool:
    """Whether a forward runs within a backward, as activation checkpointing has it: what it counts is counted."""
    return torch._C._current_graph_task_id() != -1


def plain(module: _BatchNorm, inputs: Tensor) -> Tensor:
    """Batch norm of one rank as torch has it, whose running statistics a recomputation leaves alone."""
    if not (module.training and is_recomputed()):
        return _BatchNorm.forward(module, inputs)
    # Copies, not None: checkpointing wants as many tensors kept for the backward as in the first forward.
    mean, variance = (None if b is None else b.clone() for b in (module.running_mean, module.running_var))
    return functional.batch_norm(inputs, mean, variance, module.weight, module.bias, True, 0.0, module.eps)


@torch.no_grad()
def move_running_statistics(module: _BatchNorm, means: Tensor, variances: Tensor) -> None:
    """What several forwards, one for each row, would have made of the running statistics; nothing when recomputed.

    With weight eta of a new batch (``momentum``) and rows 1 ... K, weights of all that is summed add up to 1::

        running <- (1 - eta)^K running + sum_l eta (1 - eta)^(K - l) row_l

    Args:
        module: where its momentum is None, running statistics are the mean over all batches so far: eta = 1 / number.
        means: of each batch, ``[K, channels]``.
        variances: unbiased, ``[K, channels]``.
    """
    if not module.track_running_stats or is_recomputed():
        return
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    num_rows = len(means)
    if module.momentum is None:
        before = float(module.num_batches_tracked)
        kept, weights = before / (before + num_rows), means.new_full((num_rows,), 1 / (before + num_rows))
    else:
        kept = (1 - module.momentum) ** num_rows
        powers = torch.arange(num_rows - 1, -1, -1, dtype=means.dtype, device=means.device)
        weights = module.momentum * (1 - module.momentum) ** powers
    module.num_batches_tracked += num_rows
    for buffer, rows in ((module.running_mean, means), (module.running_var, variances)):
        buffer.mul_(kept).add_(weights @ rows)
