"""Slow workers on purpose."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from orchestrator.core.coding.scheme import Task
from orchestrator.core.served import Assignment
from orchestrator.spec.delays import read_delays
from orchestrator.spec.methods.served import Injection


class Delays:
    """How long one worker waits before each chunk.

    A round's delay is spread over the worker's chunks by their sizes, as slow hardware would spread it.

    Args:
        config: the file, and what grows with the share of the batch.
        folder: of the spec.
        worker: whose column it is.
        draw_factor: batches that the chunks of a round are together.
    """

    def __init__(self, config: Injection, folder: Path, worker: int, draw_factor: Fraction) -> None:
        self._seconds = [row[worker] for row in read_delays(folder / config.delays)]
        self._seconds_per_round = config.seconds_per_batch * float(draw_factor)

    def in_round(self, assignment: Assignment) -> float:
        """Seconds to wait in a whole round."""
        return sum(self.before(chunk, assignment) for task in assignment.tasks for chunk in task.chunks)

    def before(self, chunk: int, assignment: Assignment) -> float:
        """Seconds to wait before a chunk."""
        weights = assignment.chunk_weights
        of_round = self._seconds[assignment.round_index % len(self._seconds)]
        share_of_round = weights[chunk] / _total(assignment.tasks, weights)
        return of_round * share_of_round + self._seconds_per_round * weights[chunk] / sum(weights)


def _total(tasks: tuple[Task, ...], weights: tuple[int, ...]) -> int:
    return sum(weights[chunk] for task in tasks for chunk in task.chunks)
