"""What the schemes that decode each job in its own round share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.scheme import Decoded, Task, Workers, count
from orchestrator.core.errors import UndecodableError


class SingleRound(ABC):
    """A scheme without memory of earlier rounds: every worker sends one message, and the job is decoded at once.

    Args:
        num_workers: Workers that share the batch.
        num_chunks: Chunks of equal size that a job's batch is cut into.
        load: Share of a batch that each worker computes.
    """

    draw_factor = Fraction(1)
    delay = 0
    num_messages = 1
    rotates = False
    """Whether chunks go around the workers, one further each round. Schemes that leave chunks out need it: where the
    same workers are always late, the same places of the batch would always be missing."""

    def __init__(self, num_workers: int, *, num_chunks: int, load: float) -> None:
        self.num_workers = num_workers
        self.chunk_weights = (1,) * num_chunks
        self.load = load
        self._job: int | None = None
        self._arrived: Workers | None = None

    @abstractmethod
    def _suffices(self, arrived: Workers) -> bool:
        """Whether a job's round may end with the messages of these workers."""

    @abstractmethod
    def _message(self, worker: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Chunks that a worker's message is made of, before any rotation, and their coefficients."""

    @abstractmethod
    def _combination(self, job: int, arrived: Workers) -> Decoded:
        """How the job is made of the messages of these workers, for whom ``_suffices`` holds."""

    def begin(self, round_index: int, *, has_new_job: bool) -> None:
        """Start a round; see ``Scheme``."""
        self._job = round_index if has_new_job else None
        self._arrived = None

    def loads(self) -> NDArray[np.float64]:
        """Share of a batch that each worker computes, [num_workers]: the same for all."""
        return np.full(self.num_workers, 0.0 if self._job is None else self.load)

    def tasks(self, worker: int) -> tuple[Task, ...]:
        """The worker's one message; none where no job is left."""
        if self._job is None:
            return ()
        chunks, coefficients = self._message(worker)
        shift = self._job if self.rotates else 0
        moved = sorted(
            ((chunk + shift) % len(self.chunk_weights), coefficient)
            for chunk, coefficient in zip(chunks, coefficients, strict=True)
        )
        chunks, coefficients = zip(*moved, strict=True)
        return (Task(job=self._job, slot=0, chunks=chunks, coefficients=coefficients),)

    def may_close(self, arrived: Workers) -> bool:
        """Whether the round may end with the messages of these workers alone."""
        return self._job is None or self._suffices(arrived)

    def close(self, arrived: Workers) -> tuple[int, ...]:
        """End the round, whose job is decoded now; see ``Scheme``."""
        if not self.may_close(arrived):
            raise UndecodableError(
                f"Round {self._job} cannot close with the messages of {count(arrived)} of {self.num_workers} workers."
            )
        self._arrived = arrived.copy()
        return () if self._job is None else (self._job,)

    def credit(self, worker: int, job: int, slot: int) -> bool:
        """No: the message's job was decoded when its round closed."""
        return False

    def decode(self, job: int) -> Decoded:
        """How to decode the job of the round that has just been closed; see ``Scheme``."""
        if self._arrived is None or job != self._job:
            raise UndecodableError(f"Job {job} is not one that the last round completed.")
        return self._combination(job, self._arrived)


def one_message_each(
    job: int,
    workers: NDArray[np.intp],
    coefficients: NDArray[np.float64],
    *,
    coverage: float = 1.0,
    residual: float = 0.0,
) -> Decoded:
    """The sum of coefficient x message over workers that send one message each.

    Args:
        job: The job that the messages are of.
        workers: ``[num_used]`` in ascending order.
        coefficients: ``[num_used]``, none of them 0.
        coverage: See ``Decoded``.
        residual: See ``Decoded``.
    """
    return Decoded(
        job=job,
        messages=tuple((worker, 0) for worker in workers.tolist()),
        coefficients=coefficients,
        coverage=coverage,
        residual=residual,
    )
