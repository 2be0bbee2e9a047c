"""Records of jobs whose workers and data are known, made without the code that is tested."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulate.stragglers.recorded import Record

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Made:
    """A job: seconds of worker i in step t are factors[t, i] x work[t, i]."""

    factors: Floats
    work: Floats

    @property
    def record(self) -> Record:
        return record_of(self.factors * self.work, 65_536 * self.work)


def record_of(seconds: Floats, elements: Floats, *, load: float | None = None, in_order: bool = True) -> Record:
    num_steps, num_workers = seconds.shape
    return Record(
        steps=np.arange(1, num_steps + 1),
        seconds=seconds,
        elements=elements,
        load=1 / num_workers if load is None else load,
        in_order=in_order,
    )


def noise(num_steps: int, num_workers: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).uniform(0.95, 1.05, (num_steps, num_workers))


def bursty(num_steps: int = 60, num_workers: int = 8) -> Made:
    """Each worker is slow by 12 times in 5 % of the steps."""
    is_slow = np.random.default_rng(1).random((num_steps, num_workers)) < 0.05
    return Made(np.where(is_slow, 12, 1) * noise(num_steps, num_workers), np.ones((num_steps, num_workers)))


def one_slow_worker(num_steps: int = 60, num_workers: int = 8) -> Made:
    """Worker 5 takes three times as long, always."""
    factors = noise(num_steps, num_workers)
    factors[:, 5] *= 3
    return Made(factors, np.ones((num_steps, num_workers)))


def slow_data(num_steps: int = 60, num_workers: int = 8) -> Made:
    """In every step one part of the batch, never the same one for long, has six times as much in it."""
    rng = np.random.default_rng(2)
    work = np.ones((num_steps, num_workers))
    work[np.arange(num_steps), rng.integers(num_workers, size=num_steps)] = 6
    return Made(noise(num_steps, num_workers), work)
