"""Finding the user's recipe and holding it to its contract."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from orchestrator.core import tables
from orchestrator.core.errors import RecipeError
from orchestrator.core.protocols import LossFunction
from orchestrator.core.user_code import user_code
from orchestrator.spec.job import JobSpec
from orchestrator.spec.job import Recipe as RecipeConfig


def load_recipe(config: RecipeConfig, folder: Path) -> Any:
    """Import the class that ``recipe.target`` names and make it with ``recipe.args``.

    The folder is put on ``sys.path``, so that a recipe may import its neighbors and loader processes find it.

    Raises:
        RecipeError: where the import or the constructor fails, or the class is not there.
    """
    module_name, _, class_name = config.target.rpartition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if module_name.endswith(".py"):
        module_name = module_name.removesuffix(".py").replace("/", ".")
    with user_code(f"Importing {config.target}", folder):
        module = importlib.import_module(module_name)
    if not hasattr(module, class_name):
        raise RecipeError(f"recipe.target: {module_name} has no class {class_name!r}.")
    with user_code(f"{class_name}()", folder):
        return getattr(module, class_name)(**config.args)


def training_loss(spec: JobSpec, recipe: Any, folder: Path) -> LossFunction:
    """What a job trains on: the recipe's loss with what ``modulators`` make of it, the first one innermost."""
    loss: LossFunction = CheckedLoss(recipe, folder)
    for config in spec.modulators:
        if "loss" in config.changes:
            loss = tables.load(tables.MODULATORS, config.name)(config).around(loss)
    return loss


class CheckedLoss:
    """``recipe.loss`` with its errors told by the user's line and its result checked once.

    Args:
        recipe: the user's recipe.
        folder: the folder of the user's files.
    """

    def __init__(self, recipe: Any, folder: Path) -> None:
        self._recipe = recipe
        self._folder = folder
        self._name = f"{type(recipe).__name__}.loss"
        self._checked = False

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean loss over the batch and its metrics.

        Raises:
            RecipeError: where the recipe raises or returns something else.
        """
        with user_code(self._name, self._folder):
            result = self._recipe.loss(model, batch)
        if not self._checked:
            self._check(result)
        loss, metrics = result
        return loss, metrics

    def _check(self, result: Any) -> None:
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise RecipeError(
                f"{self._name} must return (loss, metrics), a scalar tensor and a mapping; got {result!r}."
            )
        loss, metrics = result
        if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.requires_grad):
            raise RecipeError(f"{self._name} must return a scalar tensor with a gradient as its loss; got {loss!r}.")
        for name, value in metrics.items():
            if name == "loss" or not (isinstance(value, Tensor) and value.dim() == 0):
                raise RecipeError(
                    f"{self._name}: metric {name!r} must be a scalar tensor not called 'loss'; got {value!r}."
                )
        self._checked = True
