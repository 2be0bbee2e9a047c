"""Recipe, data and model of a phase, as every process of a job makes them for itself, all alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from orchestrator.core import tables
from orchestrator.core.errors import RecipeError
from orchestrator.core.seeding import seed_everything
from orchestrator.core.user_code import user_code
from orchestrator.data.stream import is_stream, stream_length_error
from orchestrator.engines.modules import checkpoint_activations, compile_model
from orchestrator.spec.coupling import COUPLES_SAMPLES, cutting_problems
from orchestrator.spec.job import JobSpec
from orchestrator.spec.phases import batch_changes, samples_per_step
from orchestrator.train.recipe import load_recipe


@dataclass(frozen=True, slots=True)
class Source:
    """A recipe and its data."""

    recipe: Any
    train_set: Any
    eval_set: Any


def read_source(spec: JobSpec, folder: Path) -> Source:
    """Recipe and data of a phase, the same whenever they are made.

    Raises:
        RecipeError: where user code fails, or the loss couples samples that the spec would have apart.
    """
    seed_everything(spec.train.seed)
    recipe = load_recipe(spec.recipe, folder)
    _refuse_cutting(spec, recipe)
    train_set, eval_set = tables.load(tables.SOURCES, spec.data.source.name)(spec.data.source, recipe, folder)
    return Source(recipe, train_set, eval_set)


def _refuse_cutting(spec: JobSpec, recipe: Any) -> None:
    if getattr(recipe, COUPLES_SAMPLES, False):
        for problem in cutting_problems(spec):
            raise RecipeError(str(problem))


def fresh_model(spec: JobSpec, recipe: Any, folder: Path) -> nn.Module:
    """The recipe's model with the layers that ``modulators`` give it, weights as the present generators draw them."""
    with user_code(f"{type(recipe).__name__}.build_model", folder):
        model: nn.Module = recipe.build_model()
    for config in spec.modulators:
        if "model" in config.changes:
            model = tables.load(tables.MODULATORS, config.name)(config).change(model)
    return model


def build_model(spec: JobSpec, recipe: Any, folder: Path) -> nn.Module:
    """The recipe's model in host memory, with the seed's weights, set up as ``modulators`` and ``train`` ask for."""
    seed_everything(spec.train.seed)
    model = fresh_model(spec, recipe, folder)
    if spec.train.activation_checkpointing is not None:
        checkpoint_activations(model, spec.train.activation_checkpointing)
    if spec.train.compile is not None:
        compile_model(model, spec.train.compile)
    return model


def count_ahead(spec: JobSpec, folder: Path) -> int | None:
    """Samples of a phase that has not begun; its data are made only where they must be counted."""
    if spec.train.epochs is not None:
        return count_samples(spec, read_source(spec, folder).train_set)
    seed_everything(spec.train.seed)
    load_recipe(spec.recipe, folder)
    return count_samples(spec, train_set=None)


def count_samples(spec: JobSpec, train_set: Any) -> int | None:
    """Length of a phase in samples; None where it is in steps of a batch that changes.

    Raises:
        DataError: where the length is given in epochs and the data is a stream, which has none.
    """
    if spec.train.samples is not None:
        return spec.train.samples
    if spec.train.steps is not None:
        return None if batch_changes(spec) else spec.train.steps * samples_per_step(spec)
    if is_stream(train_set):
        raise stream_length_error("train.epochs")
    return (spec.train.epochs or 0) * len(train_set)
