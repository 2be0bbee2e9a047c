"""Exchanges that a spec may name."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from orchestrator.spec.methods.asynchronous import Asynchronous, Delayed
from orchestrator.spec.methods.coded import Coded
from orchestrator.spec.section import Method, PositiveFloat


class AllReduce(Method):
    """Gradients are summed over all workers while the backward pass still runs.

    Engines that divide gradients among the workers do it by their own reduce-scatter.
    """

    topology: ClassVar[Literal["collective"]] = "collective"
    name: Literal["all_reduce"]
    bucket_mib: PositiveFloat | None = None
    """Engine ddp: size of one message in MiB, null is 25; smaller ones overlap more, larger ones cost fewer
    messages. Must be null under engines with messages of their own."""


ExchangeConfig = Annotated[AllReduce | Coded | Asynchronous | Delayed, Field(discriminator="name")]
