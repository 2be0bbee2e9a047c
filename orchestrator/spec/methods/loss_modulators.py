"""What may change how a micro-batch's gradient is computed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.spec.methods.engines import NATIVE_STEP, WHOLE_WEIGHTS
from orchestrator.spec.methods.modulator import Modulator
from orchestrator.spec.section import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    list_to_tuple,
)


class GradientNoise(Modulator):
    """Multiplies every micro-batch's gradient by a random number around 1 (arXiv 1705.08741)."""

    changes = frozenset({"loss"})
    name: Literal["gradient_noise"]
    sigma: NonNegativeFloat = 0.1
    """Standard deviation of the number; with micro-batches of one sample every sample has its own."""


class Sam(Modulator):
    """Sharpness-aware minimization: the gradient is taken where the loss nearby is largest (arXiv 2010.01412)."""

    changes = frozenset({"loss"})
    name: Literal["sam"]
    requires = frozenset({WHOLE_WEIGHTS})
    rho: NonNegativeFloat = 0.05
    """How far away, as the L2 norm of the difference of all weights."""
    m: PositiveInt | None = None
    """Most samples that one such place is looked for with, whatever the batch and the number of workers; a micro-batch
    is cut into equal groups of at most so many. null takes the micro-batch."""


class SavedActivations(Modulator):
    """Keeps what a forward saves for the backward in 8 bits per number (Mesa, arXiv 2111.11124)."""

    changes = frozenset({"loss"})
    name: Literal["saved_activations"]
    requires = frozenset({WHOLE_WEIGHTS})
    min_elements: PositiveInt = 4096
    """Smaller tensors are kept as they are."""
    group: PositiveInt = 256
    """Consecutive numbers that share a scale and a zero."""
    stochastic: bool = False
    """Whether numbers are rounded up or down at random, so that they are right on average."""


class Adversarial(Modulator):
    """The base of adversarial learning: half of the loss is that of samples which were changed to raise it."""

    requires = frozenset({WHOLE_WEIGHTS})
    epsilon: NonNegativeFloat
    """Most that an element of the input is changed by, in the input's own unit."""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the changed samples in the loss; the others have the rest."""
    steps: PositiveInt = 1
    """Gradients by which a sample is changed: 1 is FGSM, more are PGD."""
    step_size: PositiveFloat | None = None
    """What each changes an element by; null is epsilon for one step, else 2.5 epsilon / steps."""
    clip: Annotated[tuple[float, float] | None, BeforeValidator(list_to_tuple)] = None
    """Least and largest legal value of the input; null knows none."""
    input: str | int | None = None
    """Which tensor of the batch is the input, by its key or index; null takes the first of floating-point numbers."""
    statistics: Literal["separate", "shared"] = "separate"
    """Whether changed samples have batch-norm layers of their own (AdvProp, arXiv 1911.09665). Without batch norm in
    the model: shared."""

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip needs a least value below the largest; got {list(self.clip)}")
        return self

    @property
    def step(self) -> float:
        """What each gradient changes an element by."""
        return self.step_size or (self.epsilon if self.steps == 1 else 2.5 * self.epsilon / self.steps)


class Disadv(Adversarial):
    """Adversarial learning in step: samples are changed with the weights that they are then trained at."""

    changes = frozenset({"model", "loss"})
    name: Literal["disadv"]


class Conadv(Adversarial):
    """Adversarial learning whose samples are changed with older weights, beside the step (ConAdv, arXiv 2106.00221)."""

    changes = frozenset({"model", "loss", "data"})
    name: Literal["conadv"]
    requires = frozenset({WHOLE_WEIGHTS, NATIVE_STEP})
    staleness: PositiveInt = 1
    """Steps between the weights that samples are changed with and those that they are trained at."""
    concurrent: bool = True
    """Whether samples are changed beside the step; false does it before, and gives the same weights."""
