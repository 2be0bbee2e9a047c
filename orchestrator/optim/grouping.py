"""Which parameters are treated alike: weight decay, learning rate, adaptation to the layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from orchestrator.core.errors import RecipeError
from orchestrator.core.patterns import matches
from orchestrator.spec.methods.optimizers import AdaptedGroup, OptimizerBase, ParameterGroup

LR_MULTIPLIER = "lr_multiplier"
"""Key of a group: what the engines multiply the learning rate by."""


def parameter_groups(model: nn.Module, config: OptimizerBase) -> list[dict[str, Any]]:
    """The trainable parameters as torch's ``param_groups``, named, in the model's order; no group is empty.

    Biases and normalization gains have at most one dimension and are left out of the decay unless asked for.

    Args:
        model: whole or divided.
        config: the optimizer's, with its weight decay, who takes part in it, and the groups of their own.

    Raises:
        RecipeError: where a pattern of ``optimizer.param_groups`` matches no parameter.
    """
    _check_patterns(model, config)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = _group_of(name, model, config)
        decay = config.weight_decay if config.decay_one_dimensional or parameter.dim() > 1 else 0.0
        options: dict[str, Any] = {"weight_decay": decay, LR_MULTIPLIER: 1.0}
        if own is not None:
            options[LR_MULTIPLIER] = own.lr_multiplier
            if own.weight_decay is not None:
                options["weight_decay"] = own.weight_decay
            if isinstance(own, AdaptedGroup) and own.adapt is not None:
                options["adapt"] = own.adapt
        group = groups.setdefault(tuple(options.items()), {"params": [], **options})
        group["params"].append((name, parameter))
    return list(groups.values())


def _group_of(name: str, model: nn.Module, config: OptimizerBase) -> ParameterGroup | None:
    names = list(names_and_owners(name, model))
    for group in config.param_groups:
        if any(matches(pattern, candidate) for pattern in group.match for candidate in names):
            return group
    return None


def names_and_owners(name: str, model: nn.Module) -> Iterator[str]:
    """A parameter's name, and name and class of every module that it belongs to."""
    yield name
    parts = name.split(".")[:-1]
    for length in range(1, len(parts) + 1):
        owner = ".".join(parts[:length])
        yield owner
        # FSDP2 gives a module it divides a class derived from its own.
        yield from (kind.__name__ for kind in type(model.get_submodule(owner)).__mro__ if issubclass(kind, nn.Module))


def _check_patterns(model: nn.Module, config: OptimizerBase) -> None:
    known = {
        candidate
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for candidate in names_and_owners(name, model)
    }
    for index, group in enumerate(config.param_groups):
        for pattern in group.match:
            if not any(matches(pattern, candidate) for candidate in known):
                raise RecipeError(
                    f"optimizer.param_groups[{index}].match: no trainable parameter of {type(model).__name__} matches "
                    f"{pattern!r}. Parameters and modules: {', '.join(sorted(known))}."
                )
