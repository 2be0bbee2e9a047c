"""What may change a recipe's model, its loss, or gradients between their sum and the optimizer's step."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from orchestrator.spec.methods.engines import NATIVE_STEP
from orchestrator.spec.section import Method, NonNegativeFloat, name_alone


class Modulator(Method):
    """A method of ``modulators``, by what it changes."""

    changes: ClassVar[Literal["model", "loss", "gradient"]]
    """``model``: its layers, before anything else is done to it. ``loss``: how a micro-batch's gradient is computed,
    on whichever process computes it. ``gradient``: the step's, between its sum and the optimizer's step."""


class GradientNoise(Modulator):
    """Multiplies every micro-batch's gradient by a random number around 1 (arXiv 1705.08741)."""

    changes = "loss"
    name: Literal["gradient_noise"]
    sigma: NonNegativeFloat = 0.1
    """Standard deviation of the number; with micro-batches of one sample every sample has its own."""


class AdaptiveBraking(Modulator):
    """Shrinks gradients that point along the momentum and lengthens those against it (arXiv 2007.01397)."""

    changes = "gradient"
    name: Literal["adaptive_braking"]
    requires = frozenset({NATIVE_STEP})
    rho: NonNegativeFloat = 2.0
    """Strength; 0 changes nothing."""
    scope: Literal["tensor", "model"] = "tensor"
    """Whether the cosine is taken of each tensor or of the whole model."""
    min_delay: NonNegativeFloat = 0.5
    """Asynchronous and delayed exchanges: mean delay in updates below which `rho` falls to 0 in proportion, as braking
    only costs speed there; 0 always brakes."""


ModulatorConfig = Annotated[
    Annotated[GradientNoise | AdaptiveBraking, Field(discriminator="name")], BeforeValidator(name_alone)
]
