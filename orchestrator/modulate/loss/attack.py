"""Changing the samples of a batch so that a model's loss on them grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.core.batches import map_tensors, tensors_of
from orchestrator.core.errors import RecipeError
from orchestrator.core.protocols import LossFunction
from orchestrator.modulate.model.split_norms import use_auxiliary
from orchestrator.spec.methods.loss_modulators import Adversarial


def input_of(batch: Any, key: str | int | None) -> Tensor:
    """The tensor of a batch that is changed.

    Args:
        batch: what ``collate`` returned.
        key: in a mapping, or index in a sequence; None is the first tensor of floating-point numbers.

    Raises:
        RecipeError: where there is none.
    """
    if key is None:
        found = next((tensor for tensor in tensors_of(batch) if tensor.is_floating_point()), None)
        if found is None:
            raise RecipeError(
                "modulators: the batch has no tensor of floating-point numbers that could be changed by gradients. "
                "Legal: a recipe whose data set or collate gives its inputs as floating-point numbers."
            )
        return found
    if isinstance(key, str):
        value = batch.get(key) if isinstance(batch, Mapping) else None
    else:
        value = batch[key] if isinstance(batch, list | tuple) and -len(batch) <= key < len(batch) else None
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        what = f"a {value.dtype} tensor" if isinstance(value, Tensor) else f"{type(value).__name__} there"
        raise RecipeError(
            f"modulators: input: {key!r} must name a tensor of floating-point numbers in the batch, which has {what}."
        )
    return value


def with_input(batch: Any, old: Tensor, new: Tensor) -> Any:
    """The batch with another tensor in the place of one of its own."""
    return map_tensors(batch, lambda tensor: new if tensor is old else tensor)


def attack(model: nn.Module, loss: LossFunction, batch: Any, config: Adversarial) -> Tensor:
    """The batch's input x, changed ``steps`` times by the sign of the loss's gradient, within epsilon and ``clip``.

    Each step is::

        x' <- clip(x + clamp(x' + step_size sign(grad_x' L) - x, -epsilon, epsilon))        from x' = x

    No ``.grad`` is touched.

    Args:
        model: as it is to be attacked; what its forward changes (running statistics) it changes.
        loss: of the recipe.
        batch: of samples as they are.
        config: of the attack.

    Raises:
        RecipeError: where the batch has no such input, or the loss does not depend on it.
    """
    original = input_of(batch, config.input)
    changed = original.detach()
    for _ in range(config.steps):
        changed = changed.detach().requires_grad_()
        value, _ = loss(model, with_input(batch, original, changed))
        with torch.autocast(value.device.type, enabled=False):
            (gradient,) = torch.autograd.grad(value, changed, allow_unused=True)
        if gradient is None:
            raise RecipeError("modulators: the recipe's loss does not depend on the input that is to be changed.")
        difference = changed.detach() + config.step * gradient.sign() - original
        changed = original.detach() + difference.clamp(-config.epsilon, config.epsilon)
        if config.clip is not None:
            changed = changed.clamp(*config.clip)
    return changed


def prepare(model: nn.Module) -> None:
    """Turn a model to the state that it is attacked in: nothing at random, batch statistics, the second set of them.

    Dropout and its like are off, so that an attack draws no random numbers; batch norm normalizes by the batch, as in
    the training that the changed samples are for.
    """
    for module in model.modules():
        module.training = isinstance(module, _BatchNorm)
    use_auxiliary(model, True)
