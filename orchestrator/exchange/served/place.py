"""Where a training stands among those that share the workers."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.links import ShardLinks
from orchestrator.exchange.asynchronous.pushes import Pushes
from orchestrator.exchange.served.rounds import Rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPlace:
    """What a shard is given to train one of the models that share the workers."""

    links: ShardLinks
    rounds: Rounds | None
    """On the shard of rank 0: the rounds of all models."""
    pushes: Pushes | None = None
    """Asynchronous training, on the shard of rank 0: what the workers push."""
    model: int
    """Which of them, from 0."""
