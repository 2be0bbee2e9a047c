"""Which module of the model each parameter belongs to, for methods that treat modules differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from orchestrator.core.errors import RecipeError
from orchestrator.core.patterns import matches
from orchestrator.core.user_code import user_code
from orchestrator.optim.grouping import names_and_owners
from orchestrator.spec.methods.gradient_modulators import Agvm, MeasuresModules

REST = "rest"
"""Name of the module of the parameters that no other has."""


@dataclass(frozen=True, slots=True)
class ParameterModules:
    """The modules of a model, all trainable parameters in one of them."""

    names: tuple[str, ...]
    module_of: Mapping[str, int]
    """Number of each trainable parameter's module, by the parameter's name."""


def parameter_modules(config: MeasuresModules, recipe: Any, model: nn.Module, folder: Path) -> ParameterModules:
    """The modules that a spec, the recipe or the model itself names, in this order of preference.

    Raises:
        RecipeError: where a pattern matches no trainable parameter; for agvm, where there are fewer than two modules,
            or the anchor is none of them.
    """
    patterns = config.modules or _of_recipe(recipe, model, folder) or _of_children(model)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    owner: dict[str, str] = {}
    for module, own in patterns.items():
        for pattern in own:
            found = [name for name in trainable if _belongs(pattern, name, model)]
            if not found:
                raise RecipeError(
                    f"{config.name}: no trainable parameter of {type(model).__name__} belongs to {pattern!r} of the "
                    f"module {module!r}. Parameters: {', '.join(trainable)}."
                )
            for name in found:
                owner.setdefault(name, module)
    for name in trainable:
        owner.setdefault(name, REST)
    names = tuple(dict.fromkeys([*(m for m in patterns if m in owner.values()), *owner.values()]))
    if isinstance(config, Agvm):
        _check_comparable(config, names, model)
    return ParameterModules(names, {name: names.index(owner[name]) for name in trainable})


def _check_comparable(config: Agvm, names: Sequence[str], model: nn.Module) -> None:
    if len(names) < 2:
        raise RecipeError(
            f"agvm compares modules, and {type(model).__name__} has only {', '.join(names) or 'none'}. Legal: modules "
            "with at least two members, or a recipe with parameter_modules(model)."
        )
    if config.anchor is not None and config.anchor not in names:
        raise RecipeError(f"agvm.anchor: {config.anchor!r} is no module. Legal: {', '.join(names)}.")


def _belongs(pattern: str, name: str, model: nn.Module) -> bool:
    return any(matches(pattern, candidate) for candidate in names_and_owners(name, model))


def _of_recipe(recipe: Any, model: nn.Module, folder: Path) -> Mapping[str, Sequence[str]] | None:
    if not hasattr(recipe, "parameter_modules"):
        return None
    with user_code(f"{type(recipe).__name__}.parameter_modules", folder):
        found = recipe.parameter_modules(model)
    if not isinstance(found, Mapping) or not all(
        isinstance(own, Sequence) and all(isinstance(pattern, str) for pattern in own) for own in found.values()
    ):
        raise RecipeError(
            f"{type(recipe).__name__}.parameter_modules must return a mapping of names of modules to lists of "
            f"patterns; got {found!r}."
        )
    return found


def _of_children(model: nn.Module) -> dict[str, list[str]]:
    return {
        name: [name]
        for name, child in model.named_children()
        if any(parameter.requires_grad for parameter in child.parameters())
    }
