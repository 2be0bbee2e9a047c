"""Schemes in which one worker computes each chunk: wait for all, go on without the last, or have spare workers."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt

import numpy as np

from orchestrator.core.coding.checks import check_range, check_stragglers
from orchestrator.core.coding.scheme import Decoded, Workers, count
from orchestrator.core.coding.single_round import SingleRound, one_message_each


class OneChunkEach(SingleRound):
    """Worker i computes chunk i of as many chunks."""

    def __init__(self, num_workers: int, *, load: float) -> None:
        super().__init__(num_workers, num_chunks=num_workers, load=load)

    def _message(self, worker: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        return (worker,), (1.0,)


class Uncoded(OneChunkEach):
    """Every chunk is needed: a round takes as long as its slowest worker."""

    def __init__(self, num_workers: int) -> None:
        check_range("num_workers", num_workers, least=1)
        super().__init__(num_workers, load=1 / num_workers)

    def _suffices(self, arrived: Workers) -> bool:
        return bool(arrived.all())

    def _combination(self, job: int, arrived: Workers) -> Decoded:
        return one_message_each(job, np.arange(self.num_workers), np.ones(self.num_workers))


class Ignore(OneChunkEach):
    """A round closes without its last ``stragglers`` workers; what arrived is scaled to stand for the whole batch."""

    rotates = True

    def __init__(self, num_workers: int, *, stragglers: int) -> None:
        check_stragglers(stragglers, num_workers)
        super().__init__(num_workers, load=1 / num_workers)
        self._num_needed = num_workers - stragglers

    def _suffices(self, arrived: Workers) -> bool:
        return count(arrived) >= self._num_needed

    def _combination(self, job: int, arrived: Workers) -> Decoded:
        workers = np.flatnonzero(arrived)
        coverage = len(workers) / self.num_workers
        coefficients = np.full(len(workers), 1 / coverage)
        residual = sqrt(self.num_workers - len(workers))
        return one_message_each(job, workers, coefficients, coverage=coverage, residual=residual)


class Backup(OneChunkEach):
    """Backup workers (arXiv 1604.00981): the update is the mean of the first N = num_workers - backups gradients.

    Each worker draws 1 / N of a batch, so num_workers / N batches are drawn for an update and the last ``backups``
    workers' samples are dropped. Where more than N arrive before the round closes, all of them are averaged.
    """

    rotates = True

    def __init__(self, num_workers: int, *, backups: int) -> None:
        check_range("num_workers", num_workers, least=1)
        check_range("backups", backups, least=0, most=num_workers - 1)
        self._num_needed = num_workers - backups
        super().__init__(num_workers, load=1 / self._num_needed)
        self.draw_factor = Fraction(num_workers, self._num_needed)

    def _suffices(self, arrived: Workers) -> bool:
        return count(arrived) >= self._num_needed

    def _combination(self, job: int, arrived: Workers) -> Decoded:
        workers = np.flatnonzero(arrived)
        return one_message_each(job, workers, np.full(len(workers), self._num_needed / len(workers)))
