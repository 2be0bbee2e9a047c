"""The further phases of a training, each by what it changes."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, model_validator

from orchestrator.spec.methods.schedules import ScheduleConfig
from orchestrator.spec.section import PositiveFloat, PositiveInt, Section, exactly_one, name_alone


class PhaseLength(Section):
    """How long the phase is. Exactly one of steps, epochs, samples."""

    steps: PositiveInt | None = None
    """Number of optimizer steps."""
    epochs: PositiveInt | None = None
    """Number of passes over the phase's training data; the last step takes what is left."""
    samples: PositiveInt | None = None
    """Number of samples; the last step takes what is left."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        exactly_one(self, ("steps", "epochs", "samples"))
        return self


class PhaseRecipe(Section):
    """What the phase's data, loss and evaluation are made with."""

    args: dict[str, Any] = {}
    """Arguments of the recipe's class that differ; the model stays the one that the first phase's arguments gave."""


class PhaseBatch(Section):
    """How many samples make one optimizer step of the phase."""

    global_size: PositiveInt | None = None
    """Samples per optimizer step over all workers; null keeps that of the phase before."""
    micro_size: PositiveInt | None = None
    """Most samples per worker per backward; null keeps that of the phase before."""


class PhaseOptimizer(Section):
    """The update rule stays, with its state; its learning rate may change."""

    lr: PositiveFloat | None = None
    """Learning rate before the scaling rule and the schedule; null keeps that of the phase before."""


class PhaseScaling(Section):
    """The scaling rule stays; what the batch is compared with may change."""

    reference_batch: PositiveInt | None = None
    """Global batch size at which the phase's optimizer.lr was tuned; null keeps that of the phase before."""


class Phase(Section):
    """A further phase of the training. What it does not name stays as in the phase before it.

    Weights and optimizer state carry over. The data set is made anew with the phase's recipe.args and read in a new
    order; the schedule starts anew with the phase's own length, warmup included. Steps and samples go on counting.
    """

    train: PhaseLength
    """How long the phase is."""
    recipe: PhaseRecipe = PhaseRecipe()
    """What the phase's data, loss and evaluation are made with."""
    batch: PhaseBatch = PhaseBatch()
    """How many samples make one optimizer step of the phase."""
    optimizer: PhaseOptimizer = PhaseOptimizer()
    """The update rule stays; its learning rate may change."""
    schedule: Annotated[ScheduleConfig | None, BeforeValidator(name_alone)] = None
    """How the learning rate moves within the phase; null repeats that of the phase before from its start."""
    scaling: PhaseScaling = PhaseScaling()
    """The scaling rule stays; its reference may change."""
