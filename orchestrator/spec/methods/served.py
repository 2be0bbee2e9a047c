"""What the exchanges have in common whose workers push gradients to the shards that own the weights."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from orchestrator.spec.methods.engines import LOCAL_GRADIENTS
from orchestrator.spec.section import Method, NonNegativeFloat, PositiveInt, Section

NonNegativeInt = Annotated[int, Field(ge=0)]


class Injection(Section):
    """Makes workers slow on purpose, to try a scheme on a quiet cluster."""

    delays: Annotated[str, Field(examples=["delays.csv"])]
    """CSV file next to the spec, a line for each round and a number for each worker: seconds that the worker waits
    before it computes. After its last line it starts anew."""
    seconds_per_batch: NonNegativeFloat = 0.0
    """Further seconds that a whole batch would take; a worker waits its share of the batch times as long."""


class Served(Method):
    """The base of the exchanges of the served topology."""

    topology: ClassVar[Literal["served"]] = "served"
    requires = frozenset({LOCAL_GRADIENTS})
    shards: PositiveInt = 1
    """Processes that own the weights and the optimizer's state, whole tensors each; one of them coordinates."""
    cpus_per_shard: NonNegativeFloat = 1
    """CPU cores that each shard reserves."""
    message_dtype: Literal["fp32", "bf16"] = "fp32"
    """Type in which gradients travel; they are summed in that of the weights."""
    inject: Injection | None = None
    """Slow workers on purpose; null is none."""

    def draw_factor(self, workers: int) -> Fraction:
        """Samples that are drawn for each one in a step's mean."""
        return Fraction(1)
