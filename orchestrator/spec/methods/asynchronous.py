"""Asynchronous training, and its simulation by fixed delays, as a spec asks for them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.spec.methods.compensations import CompensationConfig
from orchestrator.spec.methods.engines import LOCAL_GRADIENTS
from orchestrator.spec.methods.served import NonNegativeInt, Served
from orchestrator.spec.section import Method, PositiveFloat, PositiveInt, exactly_one, name_alone

OrderFile = Annotated[str, Field(pattern=r"^.+\.csv$", examples=["order.csv"])]


class Asynchronous(Served):
    """Workers compute without waiting for each other; every push is an update of its own, computed at older weights.

    `batch.global_size` is the number of samples of one update. Every sample is accepted exactly once per epoch,
    whichever workers come and go.
    """

    name: Literal["asynchronous"]
    pushes_per_update: PositiveInt = 1
    """Pushes that make one update (n-softsync); each has an equal part of `batch.global_size`."""
    max_delay: NonNegativeInt | None = None
    """Updates since the weights were read beyond which a push is refused and its samples are given out again; null
    takes any."""
    max_lead: NonNegativeInt | None = None
    """Pushes that a worker may be ahead of the slowest one before it waits (stale synchronous parallel); null never
    waits."""
    overlap: bool = True
    """Compute the next gradient while a push is on its way; adds to the delay what it saves in time."""
    compensation: Annotated[CompensationConfig, BeforeValidator(name_alone)] | None = None
    """What is done about a push's delay; null is nothing. Adaptive braking is a modulator: see `modulators`."""
    order: OrderFile | None = None
    """CSV file next to the spec with the order of all pushes, as `simulate delay --write` or an earlier job's
    `pushes.csv` has it: the same weights bit for bit, however fast workers are. Null takes pushes as they come."""
    lease_s: PositiveFloat = 300.0
    """Seconds after which samples that a worker has not pushed a gradient of are given to another one."""
    rollbacks: NonNegativeInt = 2
    """Times that the job goes back to its latest checkpoint because the weights have diverged."""
    rollback_lr_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """What each such time multiplies the learning rate by."""

    @model_validator(mode="after")
    def _one_push_to_compensate(self) -> Self:
        compensation = self.compensation
        if compensation is not None and self.pushes_per_update > 1 and compensation.name != "staleness_aware":
            raise ValueError(
                f"compensation {compensation.name} needs pushes_per_update: 1; staleness_aware is legal with more"
            )
        return self


class Delayed(Method):
    """Trains synchronously, with gradients at older weights: what asynchronous workers would do, reproducible.

    Each update's gradient is computed at the weights of `steps` updates before, or of the version that an order
    file names.
    """

    topology: ClassVar[Literal["collective"]] = "collective"
    name: Literal["delayed"]
    requires = frozenset({LOCAL_GRADIENTS})
    steps: NonNegativeInt | None = None
    """Delay of every gradient in updates."""
    order: OrderFile | None = None
    """CSV file next to the spec: the order of pushes, with the version that each was computed at."""
    weights: Literal["consistent", "inconsistent"] = "consistent"
    """consistent runs forward and backward at the older weights; inconsistent runs the backward at the newest, as
    pipelines without weight stashing do."""
    compensation: Annotated[CompensationConfig, BeforeValidator(name_alone)] | None = None
    """What is done about the delay; null is nothing."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        exactly_one(self, ("steps", "order"))
        return self
