"""How old gradients are: of the one that the next step takes, and of all so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_DECAY = 0.99
"""Of the running mean of delays."""


@dataclass(kw_only=True)
class Staleness:
    """Written by the exchange before each step; modulators and compensations read it in the step.

    A synchronous exchange never writes: everything is new then.
    """

    delay: int = 0
    """Updates between the weights that the step's gradient was computed at and the present ones."""
    worker: int = 0
    """Who computed it."""
    read_weights: Callable[[nn.Parameter], Tensor] | None = None
    """The value that a parameter had where the gradient was computed; None where nobody asked for it to be kept."""
    is_asynchronous: bool = False
    """Whether gradients can be old at all."""
    counts: Counter[int] = field(default_factory=Counter)
    """How many updates have had each delay."""
    mean: float = 0.0
    """Running mean of the delays, without bias at the start."""

    def observe(self, delay: int, worker: int) -> None:
        """Take the delay of the update that comes next."""
        self.delay, self.worker = delay, worker
        self.counts[delay] += 1
        weight = max(1.0 - _DECAY, 1.0 / self.counts.total())
        self.mean += weight * (delay - self.mean)

    def quantile(self, share: float) -> int:
        """The smallest delay that at least this share of the updates do not exceed; 0 before the first."""
        wanted, seen = share * self.counts.total(), 0
        for delay in sorted(self.counts):
            seen += self.counts[delay]
            if seen >= wanted:
                return delay
        return 0

    def facts(self) -> dict[str, float]:
        """What the metrics say of the delay, in updates."""
        return {
            "delay": float(self.delay),
            "delay_mean": self.mean,
            "delay_p95": float(self.quantile(0.95)),
            "delay_max": float(max(self.counts, default=0)),
        }

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"counts": {str(delay): count for delay, count in self.counts.items()}, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        self.counts = Counter({int(delay): count for delay, count in state["counts"].items()})
        self.mean = state["mean"]
