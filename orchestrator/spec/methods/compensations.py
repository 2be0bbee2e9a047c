"""What may be done about the delay of a gradient: the published methods that asynchronous training is compared with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.methods.engines import LOCAL_GRADIENTS
from orchestrator.spec.section import DecayRate, Method, NonNegativeFloat, PositiveFloat


class Compensation(Method):
    """The base of all: the exchanges that have them sum the gradients themselves."""

    requires = frozenset({LOCAL_GRADIENTS})


class StalenessAware(Compensation):
    """Divides each gradient by its delay (Zhang et al. 2016, arXiv 1511.05950)."""

    name: Literal["staleness_aware"]


class DcAsgd(Compensation):
    """Adds a first-order guess of how the gradient has changed since (DC-ASGD, arXiv 1609.08326)."""

    name: Literal["dc_asgd"]
    variance: Literal["constant", "adaptive"] = "constant"
    """constant takes `strength` as it is; adaptive divides it by a running root mean square of the gradient."""
    strength: NonNegativeFloat | None = None
    """Lambda; null is 0.04, and 2 where adaptive."""
    decay: DecayRate = 0.95
    """adaptive: of the running mean of squares."""


class GapAware(Compensation):
    """Divides each element by how far its weight has moved since, in usual steps (Gap-Aware, arXiv 1909.10802)."""

    name: Literal["gap_aware"]
    decay: DecayRate = 0.999
    """Of the running mean of squares that the usual step is taken from."""


class DanaZero(Compensation):
    """A momentum for each worker, and weights sent out where they will be (DANA-Zero, arXiv 1907.11612)."""

    name: Literal["dana_zero"]


class WeightPrediction(Compensation):
    """Workers compute at weights moved ahead by the expected delay."""

    name: Literal["weight_prediction"]
    form: Literal["momentum", "linear"] = "momentum"
    """momentum follows the momentum as it fades (MSNAG); linear goes on at the present velocity (SpecTrain)."""
    delay: PositiveFloat | None = None
    """Expected delay in updates; null takes the running mean of what is measured."""


CompensationConfig = Annotated[
    StalenessAware | DcAsgd | GapAware | DanaZero | WeightPrediction, Field(discriminator="name")
]
