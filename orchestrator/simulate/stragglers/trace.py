"""Traces: how long each worker takes in each round, by how much it computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.scheme import Scheme

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """The times of a fixed set of workers.

        seconds = fixed_s + per_batch_s * share

    where the share is that of a batch's work which the worker computes. All arrays are finite and not negative.
    """

    fixed_s: Floats
    """[num_rounds, num_workers] seconds that do not depend on the share."""
    per_batch_s: Floats
    """[num_rounds, num_workers] seconds that a whole batch would add."""
    batch_work: Floats | None = None
    """[num_rounds, num_workers] work in each of as many equal parts of the batch that the job of this round is about,
    relative to the mean over all parts. It follows the data: whoever computes the part takes as long for it as this
    says. None where all parts are equal."""

    @property
    def num_rounds(self) -> int:
        """Rounds whose times are known."""
        return len(self.fixed_s)

    @property
    def num_workers(self) -> int:
        """Workers that take part in every round."""
        return int(self.fixed_s.shape[1])

    def seconds(self, round_index: int, shares: Floats) -> Floats:
        """Seconds that each worker takes in a round for its share ``[num_workers]`` of a batch's work."""
        seconds: Floats = self.fixed_s[round_index] + self.per_batch_s[round_index] * shares
        return seconds

    def uncoded_s(self) -> Floats:
        """Seconds that each worker takes for its own part of every batch, ``[num_rounds, num_workers]``."""
        work = 1.0 if self.batch_work is None else self.batch_work
        seconds: Floats = self.fixed_s + self.per_batch_s * work / self.num_workers
        return seconds


def additive(delays_s: Floats, per_batch_s: float) -> Trace:
    """Workers whose delays ``[num_rounds, num_workers]`` do not grow with what they compute."""
    return Trace(fixed_s=delays_s, per_batch_s=np.full_like(delays_s, per_batch_s))


def multiplicative(factors: Floats, *, work_s: float, fixed_s: float) -> Trace:
    """Workers that are slow by a factor ``[num_rounds, num_workers]``.

    Args:
        factors: 1 for an ordinary worker.
        work_s: Seconds that an ordinary worker computes for 1 / num_workers of a batch.
        fixed_s: Seconds of a round that neither grow with the share nor with the factor.
    """
    num_workers = factors.shape[1]
    return Trace(fixed_s=np.full_like(factors, fixed_s), per_batch_s=factors * (num_workers * work_s))


class Shares:
    """Shares of a batch's work that workers compute in the rounds of a scheme.

    Args:
        scheme: Which chunks of which jobs each worker computes.
        batch_work: See ``Trace``; the row of a job is that of the round in which it begins.
    """

    def __init__(self, scheme: Scheme, batch_work: Floats | None) -> None:
        self._scheme = scheme
        self._batch_work = batch_work
        sizes = np.cumsum((0, *scheme.chunk_weights), dtype=np.float64)
        self._edges = sizes / sizes[-1]
        self._chunks: dict[int, Floats] = {}

    def of_round(self) -> Floats:
        """Those of the scheme's present round, ``[num_workers]``; 0 for workers that idle."""
        loads = self._scheme.loads()
        if self._batch_work is None:
            return loads
        shares = np.zeros_like(loads)
        for worker in np.flatnonzero(loads).tolist():
            for task in self._scheme.tasks(worker):
                shares[worker] += self._of_chunks(task.job)[list(task.chunks)].sum()
        return shares

    def _of_chunks(self, job: int) -> Floats:
        """Share of a mean batch's work in each chunk of a job, ``[num_chunks]``."""
        if job not in self._chunks:
            assert self._batch_work is not None  # checked by of_round
            work = self._batch_work[job] / self._batch_work.shape[1]
            parts = np.linspace(0, 1, len(work) + 1)
            up_to_edges = np.interp(self._edges, parts, np.cumsum((0, *work)))
            self._chunks[job] = np.diff(up_to_edges) * float(self._scheme.draw_factor)
            self._chunks.pop(job - self._scheme.delay - 1, None)
        return self._chunks[job]
