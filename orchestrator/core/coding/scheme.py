"""The contract of a coding scheme: the real exchange and the simulator drive the same objects through it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Workers: TypeAlias = NDArray[np.bool_]
"""A set of workers, [num_workers]."""


def count(workers: Workers) -> int:
    """How many workers are in a set."""
    return int(np.count_nonzero(workers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One message that a worker is to compute in a round: sum of coefficient x chunk's gradient sum."""

    job: int
    """The update that it belongs to, from 0; with M models that share the workers, job t is of model t mod M."""
    slot: int
    """Which of the worker's messages for this job."""
    chunks: tuple[int, ...]
    """Chunks of the job's batch, in ascending order."""
    coefficients: tuple[float, ...]
    """One for each chunk."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """How the gradient of one job is made of the messages at hand: sum of coefficient x message."""

    job: int
    messages: tuple[tuple[int, int], ...]
    """(worker, slot) of every message used, in the order in which they are summed; none has the coefficient 0."""
    coefficients: NDArray[np.float64]
    """One for each message; where chunks are missing they are already scaled to stand for the whole batch."""
    coverage: float
    """Share of the batch that is in the sum; 1 where it is exact."""
    residual: float
    """Euclidean distance between the weights that chunks have in the sum and all ones, before any rescaling."""


class Scheme(Protocol):
    """One coding scheme over a fixed number of workers; a state machine over rounds.

    In each round ``begin`` is called first, then any number of times ``loads``, ``tasks`` and ``may_close``, then
    ``close`` once; ``decode`` for every job that ``close`` returned, before the next ``begin``. Rounds are begun in
    order; the first may have any index, and jobs before it are none of the scheme's. Sets of workers that arrived may
    or may not hold those without a load.
    """

    num_workers: int
    chunk_weights: tuple[int, ...]
    """Relative size of each chunk of a job's batch."""
    draw_factor: Fraction
    """Samples that are drawn for a job relative to those in its update; above 1 for backup workers only."""
    load: float
    """Largest share of a batch that a worker computes in a round; 1 / num_workers uncoded."""
    delay: int
    """Rounds after its own by which a job is decoded at the latest (T); 0 means in its own round."""
    num_messages: int
    """Most messages of a worker in a round."""

    def begin(self, round_index: int, *, has_new_job: bool) -> None:
        """Start a round: job ``round_index`` begins, unless all jobs have begun already."""

    def loads(self) -> NDArray[np.float64]:
        """Share of a batch that each worker computes in this round, [num_workers]; 0 where it idles.

        All zeros: nothing is left to do in this round, it takes no time.
        """

    def tasks(self, worker: int) -> tuple[Task, ...]:
        """The messages that a worker is to compute in this round."""

    def may_close(self, arrived: Workers) -> bool:
        """Whether the round may end with the messages of these workers alone. Monotone: more never hurt."""

    def close(self, arrived: Workers) -> tuple[int, ...]:
        """End the round; the jobs that are decoded now, in ascending order.

        Raises:
            UndecodableError: where ``may_close`` says no.
        """

    def credit(self, worker: int, job: int, slot: int) -> bool:
        """Take a message that came after its round had closed; whether it is of use."""

    def decode(self, job: int) -> Decoded:
        """How to decode a job that ``close`` has just returned.

        Raises:
            UndecodableError: where the messages at hand do not determine the sum; never a wrong sum.
        """
