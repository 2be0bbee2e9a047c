"""M-SGC, "multiplexed" (arXiv 2211.13802): workers spread each job over several rounds, so that most of it is uncoded.

A job's batch is cut into (W - 1) n chunks of the first kind (D1), W - 1 of which belong to each worker alone, and B
groups of n chunks of the second kind (D2), a cyclic code for lambda stragglers in each group. A D1 chunk is lambda + 1
times as large as a D2 chunk, so a message about one D1 chunk costs as much as one about lambda + 1 D2 chunks. In each
round a worker works on the last W - 1 + B jobs, a message for each. By the age k of the job in rounds that is

    k < W - 1     its D1 chunk k
    k >= W - 1    the first of its D1 chunks that it has not delivered; where it has delivered all of them, its coded
                  message of D2 group k - (W - 1)

With lambda = n there are no D2 chunks.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.checks import check_range
from orchestrator.core.coding.cyclic_code import CyclicDecoder
from orchestrator.core.coding.scheme import Decoded, Task, Workers, count
from orchestrator.core.coding.stragglers import Bursty
from orchestrator.core.errors import UndecodableError

IDLE = -1
"""Stands for the slot of a worker that computes nothing for a job."""


def check_parameters(num_workers: int, burst: int, window: int, max_stragglers: int) -> None:
    """Refuse parameters with which some job could not be decoded in time.

    Raises:
        ValueError: in one sentence with the name, the value and what is legal.
    """
    check_range("num_workers", num_workers, least=1)
    check_range("burst", burst, least=1)
    check_range("window", window, least=burst + 1)
    check_range("max_stragglers", max_stragglers, least=0, most=num_workers)


class MSgc:
    """The scheme; every job is decoded in the (W - 2 + B)-th round after its own.

    Slots 0 to W - 2 of a worker's messages for a job are its D1 chunks, W - 1 to W - 2 + B the D2 groups. Chunks are
    numbered through: D1 by worker and slot, then D2 by group.

    Args:
        num_workers: Workers that share the batch.
        burst: B, rounds in a row that a worker may be slow.
        window: W, rounds in which at most ``max_stragglers`` workers are slow.
        max_stragglers: lambda.
        seed: Of the code.

    Raises:
        ValueError: where a parameter is not legal.
    """

    draw_factor = Fraction(1)

    def __init__(self, num_workers: int, *, burst: int, window: int, max_stragglers: int, seed: int = 0) -> None:
        check_parameters(num_workers, burst, window, max_stragglers)
        self.num_workers = num_workers
        self.num_messages = window - 1 + burst
        self.delay = window - 2 + burst
        self._num_own = window - 1
        self._num_groups = 0 if max_stragglers == num_workers else burst
        own_weight = max_stragglers + 1 if self._num_groups else 1
        own_chunks, coded_chunks = self._num_own * num_workers, self._num_groups * num_workers
        self.chunk_weights = (own_weight,) * own_chunks + (1,) * coded_chunks
        self._message_load = own_weight / (own_weight * own_chunks + coded_chunks)
        self.load = self.num_messages * self._message_load
        self.decoder = CyclicDecoder(num_workers, max_stragglers if self._num_groups else 0, seed)
        self._history = Bursty(num_workers, burst=burst, window=window, max_stragglers=max_stragglers)
        self._delivered: dict[int, Workers] = {}
        self._assigned: dict[int, NDArray[np.intp]] = {}
        self._loads: NDArray[np.float64] = np.zeros(num_workers)
        self._round, self._is_closed = -1, True

    def begin(self, round_index: int, *, has_new_job: bool) -> None:
        """Start a round: every worker gets a message for each job in flight."""
        self._round, self._is_closed = round_index, False
        due = round_index - self.delay
        self._delivered = {job: delivered for job, delivered in self._delivered.items() if job >= due}
        if has_new_job:
            num_slots = self._num_own + self._num_groups
            self._delivered[round_index] = np.zeros((self.num_workers, num_slots), dtype=np.bool_)
        self._assigned = {job: self._slots(delivered, round_index - job) for job, delivered in self._delivered.items()}
        counts = np.zeros(self.num_workers)
        for slots in self._assigned.values():
            counts += slots != IDLE
        self._loads = counts * self._message_load

    def _slots(self, delivered: Workers, age: int) -> NDArray[np.intp]:
        """Which message each worker computes for a job, ``[num_workers]``.

        Args:
            delivered: ``[num_workers, num_slots]`` messages of the job that are there.
            age: Rounds since that in which the job began.
        """
        if age < self._num_own:
            return np.full(self.num_workers, age)
        own = delivered[:, : self._num_own]
        otherwise = age if self._num_groups else IDLE
        return np.where(own.all(axis=1), otherwise, own.argmin(axis=1))

    def loads(self) -> NDArray[np.float64]:
        """Share of a batch that each worker computes in this round, [num_workers]."""
        return self._loads

    def tasks(self, worker: int) -> tuple[Task, ...]:
        """The worker's messages, the job that is due first."""
        slots = ((job, int(assigned[worker])) for job, assigned in self._assigned.items())
        return tuple(self._task(worker, job, slot) for job, slot in slots if slot != IDLE)

    def _task(self, worker: int, job: int, slot: int) -> Task:
        if slot < self._num_own:
            return Task(job=job, slot=slot, chunks=(worker * self._num_own + slot,), coefficients=(1.0,))
        chunks, coefficients = self.decoder.code.row(worker)
        first = slot * self.num_workers  # D1 chunks fill the slots before, num_workers in each
        return Task(job=job, slot=slot, chunks=tuple(first + chunk for chunk in chunks), coefficients=coefficients)

    def may_close(self, arrived: Workers) -> bool:
        """Whether the missing workers leave the pattern of stragglers one with which every job is decoded in time."""
        return self._history.admits((self._loads > 0) & ~arrived)

    def close(self, arrived: Workers) -> tuple[int, ...]:
        """End the round; see ``Scheme``."""
        if not self.may_close(arrived):
            raise UndecodableError(
                f"Round {self._round} cannot close with the messages of {count(arrived)} of {self.num_workers} workers."
            )
        self._history.append((self._loads > 0) & ~arrived)
        for job, slots in self._assigned.items():
            workers = np.flatnonzero(arrived & (slots != IDLE))
            self._delivered[job][workers, slots[workers]] = True
        self._is_closed = True
        due = self._round - self.delay
        return (due,) if due in self._delivered else ()

    def credit(self, worker: int, job: int, slot: int) -> bool:
        """Take a message that came after its round had closed; whether it is of use.

        It is where it holds a D1 chunk of a job in flight that the worker has not delivered since; the worker then
        need not compute it again.
        """
        delivered = self._delivered.get(job)
        if delivered is None or slot >= self._num_own or delivered[worker, slot]:
            return False
        delivered[worker, slot] = True
        return True

    def decode(self, job: int) -> Decoded:
        """How to decode the job that is due; see ``Scheme``."""
        if not self._is_closed or job != self._round - self.delay or job not in self._delivered:
            raise UndecodableError(f"Job {job} is not one that the last round completed.")
        delivered = self._delivered[job]
        lacking = np.count_nonzero(~delivered[:, : self._num_own])
        if lacking:
            raise UndecodableError(f"Job {job} lacks {lacking} chunks that one worker each computes.")
        terms = {(worker, slot): 1.0 for worker in range(self.num_workers) for slot in range(self._num_own)}
        residual_sq = 0.0
        for slot in range(self._num_own, self._num_own + self._num_groups):
            vector = self.decoder.vector(delivered[:, slot])
            residual_sq += vector.residual**2
            terms |= {
                (worker, slot): coefficient
                for worker, coefficient in zip(vector.workers.tolist(), vector.coefficients.tolist(), strict=True)
            }
        messages = tuple(sorted(terms))
        coefficients = np.array([terms[message] for message in messages])
        return Decoded(
            job=job, messages=messages, coefficients=coefficients, coverage=1.0, residual=float(np.sqrt(residual_sq))
        )
