"""SR-SGC, "selective repeat" (arXiv 2211.13802): an ordinary code, and what it lacks is made up for rounds later.

In round t workers compute their coded message of job t, but as many as job t - B still needs compute theirs of that
job. The code needs n - s messages, where s = ceil(B lambda / (W - 1 + B)) is less than the lambda workers that may be
slow within W rounds.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.checks import check_range
from orchestrator.core.coding.cyclic_code import CyclicDecoder
from orchestrator.core.coding.scheme import Decoded, Task, Workers, count
from orchestrator.core.coding.single_round import one_message_each
from orchestrator.core.coding.stragglers import Bursty
from orchestrator.core.errors import UndecodableError


def num_code_stragglers(burst: int, window: int, max_stragglers: int) -> int:
    """s: the workers that the code does without."""
    return -(-burst * max_stragglers // (window - 1 + burst))


def check_parameters(num_workers: int, burst: int, window: int, max_stragglers: int) -> None:
    """Refuse parameters with which some job could not be decoded in time.

    Raises:
        ValueError: in one sentence with the name, the value and what is legal.
    """
    check_range("num_workers", num_workers, least=2)
    check_range("burst", burst, least=1)
    check_range("window", window, least=burst + 1)
    if (window - 1) % burst:
        raise ValueError(f"Invalid window value: {window}. Must be 1 more than a multiple of the burst, {burst}.")
    check_range("max_stragglers", max_stragglers, least=0, most=num_workers)


class SrSgc:
    """The scheme; every job is decoded in the B-th round after its own, however early its messages are there.

    Args:
        num_workers: Workers that share the batch, one chunk for each.
        burst: B, rounds in a row that a worker may be slow.
        window: W, rounds in which at most ``max_stragglers`` workers are slow; 1 more than a multiple of B.
        max_stragglers: lambda.
        seed: Of the code.
        strict: Judge rounds as the experiments of arXiv 2211.13802 do: workers without a task are waited for as if they
            had one, and rounds that the code alone bears are exempt from the model only once they have ended.

    Raises:
        ValueError: where a parameter is not legal.
    """

    draw_factor = Fraction(1)
    num_messages = 1

    def __init__(
        self, num_workers: int, *, burst: int, window: int, max_stragglers: int, seed: int = 0, strict: bool = False
    ) -> None:
        check_parameters(num_workers, burst, window, max_stragglers)
        self.num_workers = num_workers
        self.chunk_weights = (1,) * num_workers
        self.num_stragglers = num_code_stragglers(burst, window, max_stragglers)
        """s, the workers that the code does without."""
        self.load = (self.num_stragglers + 1) / num_workers
        self.delay = burst
        self.decoder = CyclicDecoder(num_workers, self.num_stragglers, seed)
        self._strict = strict
        self._history = Bursty(num_workers, burst=burst, window=window, max_stragglers=max_stragglers)
        self._delivered: dict[int, Workers] = {}
        self._nobody = np.zeros(num_workers, dtype=np.bool_)
        self._round, self._is_closed = -1, True
        self._repeats = self._is_busy = self._nobody

    def begin(self, round_index: int, *, has_new_job: bool) -> None:
        """Start a round: the lowest workers without a message of the job that is due make up for what it needs."""
        self._round, self._is_closed = round_index, False
        due = round_index - self.delay
        self._delivered = {job: workers for job, workers in self._delivered.items() if job >= due}
        self._repeats = self._nobody.copy()
        if due in self._delivered:
            missing = np.flatnonzero(~self._delivered[due])
            self._repeats[missing[: max(0, len(missing) - self.num_stragglers)]] = True
        if has_new_job:
            self._delivered[round_index] = self._nobody.copy()
        is_whole = has_new_job or (self._strict and self._repeats.any())
        self._is_busy = ~self._nobody if is_whole else self._repeats

    def loads(self) -> NDArray[np.float64]:
        """Share of a batch that each worker computes in this round, [num_workers]."""
        return np.where(self._is_busy, self.load, 0.0)

    def tasks(self, worker: int) -> tuple[Task, ...]:
        """The worker's one message; none where it idles."""
        job = self._round - self.delay if self._repeats[worker] else self._round
        if job not in self._delivered:
            return ()
        chunks, coefficients = self.decoder.code.row(worker)
        return (Task(job=job, slot=0, chunks=chunks, coefficients=coefficients),)

    def may_close(self, arrived: Workers) -> bool:
        """Whether the missing workers leave the pattern of stragglers one with which every job is decoded in time."""
        stragglers = self._is_busy & ~arrived
        return (not self._strict and self._is_harmless(stragglers)) or self._history.admits(stragglers)

    def close(self, arrived: Workers) -> tuple[int, ...]:
        """End the round; see ``Scheme``."""
        if not self.may_close(arrived):
            raise UndecodableError(
                f"Round {self._round} cannot close with the messages of {count(arrived)} of {self.num_workers} workers."
            )
        stragglers = self._is_busy & ~arrived
        self._history.append(self._nobody if self._is_harmless(stragglers) else stragglers)
        due = self._round - self.delay
        if due in self._delivered:
            self._delivered[due] |= self._repeats & arrived
        if self._round in self._delivered:
            self._delivered[self._round] |= ~self._repeats & arrived
        self._is_closed = True
        return (due,) if due in self._delivered else ()

    def credit(self, worker: int, job: int, slot: int) -> bool:
        """No: who repeats a job was settled when the round closed."""
        return False

    def decode(self, job: int) -> Decoded:
        """How to decode the job that is due; see ``Scheme``."""
        if not self._is_closed or job != self._round - self.delay or job not in self._delivered:
            raise UndecodableError(f"Job {job} is not one that the last round completed.")
        vector = self.decoder.vector(self._delivered[job])
        return one_message_each(job, vector.workers, vector.coefficients, residual=vector.residual)

    def _is_harmless(self, stragglers: Workers) -> bool:
        """Whether the round leaves everything as if nobody had been slow: no job needs more messages after it."""
        return not self._repeats.any() and count(stragglers) <= self.num_stragglers
