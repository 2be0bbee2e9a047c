"""What is seen in a trace: who is late in which round, and for how many rounds in a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.core.coding.scheme import Workers
from orchestrator.simulate.stragglers.trace import Floats


def late_workers(seconds: Floats, mu: float) -> Workers:
    """Who takes more than 1 + mu times as long as the fastest worker of the round, ``[num_rounds, num_workers]``."""
    late: Workers = seconds > (1 + mu) * seconds.min(axis=1, keepdims=True)
    return late


def burst_counts(late: Workers) -> tuple[int, ...]:
    """How many bursts of 1, 2, ... rounds in a row there are, over all workers; up to the longest.

    Args:
        late: ``[num_rounds, num_workers]``.
    """
    edges = np.zeros((1, late.shape[1]), dtype=np.int8)
    changes = np.diff(np.concatenate((edges, late.astype(np.int8), edges)), axis=0).T
    starts, ends = np.nonzero(changes == 1)[1], np.nonzero(changes == -1)[1]
    return tuple(np.bincount(ends - starts)[1:].tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Who is late in a trace, where everybody computes 1 / num_workers of each batch."""

    late_share: float
    """Share of all times that are later than the deadline of their round."""
    bursts: tuple[int, ...]
    """See ``burst_counts``."""
    slowest_ratio: float
    """Mean over the rounds of the slowest worker's time relative to the median worker's."""

    @staticmethod
    def of(seconds: Floats, mu: float) -> Pattern:
        """That of times ``[num_rounds, num_workers]``, with deadlines 1 + mu times after the fastest worker."""
        late = late_workers(seconds, mu)
        slowest = seconds.max(axis=1) / np.median(seconds, axis=1)
        return Pattern(late_share=float(late.mean()), bursts=burst_counts(late), slowest_ratio=float(slowest.mean()))
