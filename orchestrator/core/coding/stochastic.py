"""Stochastic gradient codes (Bitar et al.): a sum that is right in expectation, whoever the stragglers are."""

from __future__ import annotations

import numpy as np

from orchestrator.core.coding.approximate import cyclic_placement
from orchestrator.core.coding.checks import check_range, check_stragglers
from orchestrator.core.coding.scheme import Decoded, Workers, count
from orchestrator.core.coding.single_round import SingleRound, one_message_each


class Stochastic(SingleRound):
    """Each chunk is on ``replicas`` workers, and a round closes without its last ``stragglers`` workers.

        message of a worker = sum of g_j / (replicas (1 - p)) over its chunks j, where p = stragglers / num_workers

    The sum of the messages of num_workers (1 - p) workers is unbiased where all sets of so many are equally likely.
    Where more have arrived before the round closes, their sum is scaled down to so many.
    """

    rotates = True

    def __init__(self, num_workers: int, *, stragglers: int, replicas: int) -> None:
        check_stragglers(stragglers, num_workers)
        check_range("replicas", replicas, least=1, most=num_workers)
        super().__init__(num_workers, num_chunks=num_workers, load=replicas / num_workers)
        self._num_needed = num_workers - stragglers
        self._coefficient = num_workers / (replicas * self._num_needed)
        self._placed = cyclic_placement(num_workers, replicas)

    def _message(self, worker: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        chunks = np.flatnonzero(self._placed[worker])
        return tuple(chunks.tolist()), (self._coefficient,) * len(chunks)

    def _suffices(self, arrived: Workers) -> bool:
        return count(arrived) >= self._num_needed

    def _combination(self, job: int, arrived: Workers) -> Decoded:
        workers = np.flatnonzero(arrived)
        coefficient = self._num_needed / len(workers)
        num_copies = np.count_nonzero(self._placed[workers], axis=0)
        return one_message_each(
            job,
            workers,
            np.full(len(workers), coefficient),
            coverage=float((num_copies > 0).mean()),
            residual=float(np.linalg.norm(num_copies * coefficient * self._coefficient - 1)),
        )
