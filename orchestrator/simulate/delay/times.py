"""How long workers take for one chunk after the other: random numbers, or what a job has recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.checks import check_range
from orchestrator.core.errors import UsageError
from orchestrator.simulate.stragglers.checks import check_number
from orchestrator.simulate.stragglers.recorded import MAX_UNKNOWN_SHARE, Record

MAX_CV = 3.0
"""Far beyond it times underflow to 0."""
_BLOCK = 256
"""Random numbers drawn at once."""


class WorkerTimes(Protocol):
    """Seconds of every worker, chunk by chunk."""

    @property
    def num_workers(self) -> int:
        """Workers of the training."""

    def of(self, worker: int) -> Iterator[float]:
        """Seconds of a worker's first chunk, its second one, and so on without an end; the same at every call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaTimes:
    """Gamma distributed times, each worker's its own: a worker's do not depend on how many others there are.

    Raises:
        ValueError: where a number is out of its range.
    """

    num_workers: int
    cv: float
    """Standard deviation relative to the mean; 0 is always the same."""
    slow: Mapping[int, float] = field(default_factory=dict)
    """Mean seconds of some workers; all others take 1."""
    seed: int

    def __post_init__(self) -> None:
        check_range("workers", self.num_workers, least=1)
        check_number("cv", self.cv, least=0.0, most=MAX_CV)
        _check_slow(self.slow, self.num_workers)

    def of(self, worker: int) -> Iterator[float]:
        """See ``WorkerTimes``."""
        mean = self.slow.get(worker, 1.0)
        rng = np.random.default_rng([self.seed, worker])
        while True:
            drawn = np.full(_BLOCK, mean) if self.cv == 0 else rng.gamma(self.cv**-2, mean * self.cv**2, _BLOCK)
            yield from drawn.tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTimes:
    """What a job's workers took in its steps, over and over again.

    Raises:
        ValueError: where a number is out of its range.
    """

    seconds: tuple[tuple[float, ...], ...]
    """Of each worker in the order of its steps, at least one; all more than 0."""
    slow: Mapping[int, float] = field(default_factory=dict)
    """Factors by which some workers are slower than recorded."""

    def __post_init__(self) -> None:
        _check_slow(self.slow, self.num_workers)

    @property
    def num_workers(self) -> int:
        """See ``WorkerTimes``."""
        return len(self.seconds)

    def of(self, worker: int) -> Iterator[float]:
        """See ``WorkerTimes``."""
        factor = self.slow.get(worker, 1.0)
        return (factor * seconds for seconds in cycle(self.seconds[worker]))


def recorded_times(record: Record, slow: Mapping[int, float]) -> RecordedTimes:
    """The times of a record, each step's part of a batch taken for a chunk.

    Steps in which a worker has no time are left out for that worker. Where only a lower bound is known, it is taken
    for as long as the slowest worker of the step, at least.

    Raises:
        UsageError: where a worker has no times, or too many are lower bounds.
        ValueError: where a factor is out of its range.
    """
    is_timed, is_sized = np.isfinite(record.seconds), np.isfinite(record.elements)
    is_bound = is_timed & ~is_sized & is_sized.any(axis=1, keepdims=True)
    num_bounds = int(np.count_nonzero(is_bound))
    if num_bounds > MAX_UNKNOWN_SHARE * np.count_nonzero(is_timed):
        raise UsageError(
            f"Of {num_bounds:,} of {np.count_nonzero(is_timed):,} times only a lower bound is known, as a step need "
            "not wait for its slow workers; record a job whose exchange waits for all, such as all_reduce."
        )
    slowest = np.where(is_timed & ~is_bound, record.seconds, 0.0).max(axis=1, keepdims=True)
    seconds = np.where(is_bound, np.fmax(record.seconds, slowest), record.seconds)
    return RecordedTimes(seconds=tuple(_of_worker(seconds, worker) for worker in range(record.num_workers)), slow=slow)


def _of_worker(seconds: NDArray[np.float64], worker: int) -> tuple[float, ...]:
    known = seconds[np.isfinite(seconds[:, worker]), worker]
    if not known.size or known.min() <= 0:
        problem = "a recorded time of 0 s; all must be more" if known.size else "no recorded times"
        raise UsageError(f"Worker {worker} has {problem}.")
    return tuple(known.tolist())


def _check_slow(slow: Mapping[int, float], num_workers: int) -> None:
    for worker, factor in slow.items():
        check_range("slow worker", worker, least=0, most=num_workers - 1)
        check_number(f"slow factor of worker {worker}", factor, least=1e-3)
