"""Rounds of a coding scheme played with numbers for gradients, written without the code that is tested."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.scheme import Decoded, Scheme, Workers


def workers(num_workers: int, members: Iterable[int]) -> Workers:
    chosen = np.zeros(num_workers, dtype=np.bool_)
    chosen[list(members)] = True
    return chosen


def all_but(num_workers: int, missing: Iterable[int]) -> Workers:
    return ~workers(num_workers, missing)


def weight_matrix(scheme: Scheme) -> NDArray[np.float64]:
    """[num_workers, num_chunks] coefficients of the messages of a round in which each worker sends one."""
    matrix = np.zeros((scheme.num_workers, len(scheme.chunk_weights)))
    for worker in range(scheme.num_workers):
        (task,) = scheme.tasks(worker)
        matrix[worker, list(task.chunks)] = task.coefficients
    return matrix


def decoded_in_round(scheme: Scheme, arrived: Workers, round_index: int = 0) -> tuple[Decoded, NDArray[np.float64]]:
    """One round of a scheme of single rounds: how it decodes, and the weights [num_chunks] that chunks have in that."""
    scheme.begin(round_index, has_new_job=True)
    matrix = weight_matrix(scheme)
    assert scheme.close(arrived) == (round_index,)
    decoded = scheme.decode(round_index)
    used = [worker for worker, slot in decoded.messages if slot == 0]
    assert arrived[used].all()
    return decoded, decoded.coefficients @ matrix[used]


def played(
    scheme: Scheme, missing: Sequence[Iterable[int]], gradients: NDArray[np.float64]
) -> dict[int, tuple[int, float]]:
    """Play rounds with given stragglers; for each job the round that decoded it and what it decoded to.

    Args:
        scheme: Before its first round.
        missing: Stragglers of each round.
        gradients: [num_jobs, num_chunks] what stands for the gradient of each chunk.
    """
    messages: dict[tuple[int, int, int], float] = {}
    found: dict[int, tuple[int, float]] = {}
    for round_index, stragglers in enumerate(missing):
        scheme.begin(round_index, has_new_job=round_index < len(gradients))
        arrived = all_but(scheme.num_workers, stragglers)
        for worker in np.flatnonzero(arrived).tolist():
            for task in scheme.tasks(worker):
                value = float(np.dot(task.coefficients, gradients[task.job, list(task.chunks)]))
                messages[task.job, worker, task.slot] = value
        for job in scheme.close(arrived):
            decoded = scheme.decode(job)
            values = [messages[job, worker, slot] for worker, slot in decoded.messages]
            found[job] = (round_index, float(decoded.coefficients @ values))
    return found
