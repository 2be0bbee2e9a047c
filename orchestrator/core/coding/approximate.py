"""Approximate gradient codes: a few copies of each chunk, and a round closes whether or not all chunks are there."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal

import numpy as np

from orchestrator.core.coding.checks import check_range, check_stragglers
from orchestrator.core.coding.decoding import DecodeCache, nearest_vector
from orchestrator.core.coding.fractional import Fractional
from orchestrator.core.coding.scheme import Decoded, Workers, count
from orchestrator.core.coding.single_round import SingleRound, one_message_each


class ApproximateFractional(Fractional):
    """Groups of at least ``replicas`` workers; groups of whom nobody arrived are left out, and the rest is scaled.

    A round closes when every group has a message, or without its last ``stragglers`` workers. Leaving out is the
    least-squares decoding of such groups.
    """

    rotates = True

    def __init__(self, num_workers: int, *, stragglers: int, replicas: int, nodes: Sequence[str] | None = None) -> None:
        check_stragglers(stragglers, num_workers)
        check_range("replicas", replicas, least=1, most=num_workers)
        super().__init__(num_workers, stragglers=replicas - 1, nodes=nodes)
        self._num_enough = num_workers - stragglers

    def _suffices(self, arrived: Workers) -> bool:
        return count(arrived) >= self._num_enough or super()._suffices(arrived)

    def _combination(self, job: int, arrived: Workers) -> Decoded:
        workers = self.first_of_groups(arrived)
        coverage = len(workers) / self.num_groups
        residual = sqrt((1 - coverage) * len(self.chunk_weights))
        coefficients = np.full(len(workers), 1 / coverage)
        return one_message_each(job, workers, coefficients, coverage=coverage, residual=residual)


class ApproximateCyclic(SingleRound):
    """Worker i sends the plain sum of the chunks i to i + ``replicas`` - 1; a round closes without its last workers.

    The sums that arrived are combined by least squares, which is exact where they determine the exact sum, and scaled
    so that the mean weight of chunks is 1.
    """

    rotates = True

    def __init__(self, num_workers: int, *, stragglers: int, replicas: int) -> None:
        check_stragglers(stragglers, num_workers)
        check_range("replicas", replicas, least=1, most=num_workers)
        super().__init__(num_workers, num_chunks=num_workers, load=replicas / num_workers)
        self._num_enough = num_workers - stragglers
        self._matrix = cyclic_placement(num_workers, replicas).astype(np.float64)
        self.cache = DecodeCache()

    def _message(self, worker: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        chunks = np.flatnonzero(self._matrix[worker])
        return tuple(chunks.tolist()), (1.0,) * len(chunks)

    def _suffices(self, arrived: Workers) -> bool:
        return count(arrived) >= self._num_enough

    def _combination(self, job: int, arrived: Workers) -> Decoded:
        vector = self.cache.vector(arrived, lambda workers: nearest_vector(self._matrix, workers))
        mean_weight = float((vector.coefficients @ self._matrix[vector.workers]).mean())
        coverage = float(self._matrix[vector.workers].any(axis=0).mean())
        coefficients = vector.coefficients / mean_weight
        return one_message_each(job, vector.workers, coefficients, coverage=coverage, residual=vector.residual)


def approximate(
    num_workers: int,
    *,
    stragglers: int,
    replicas: int,
    placement: Literal["fractional", "cyclic"],
    nodes: Sequence[str] | None = None,
) -> SingleRound:
    """An approximate code by the name of its placement.

    Raises:
        ValueError: where a parameter is not legal.
    """
    if placement == "fractional":
        return ApproximateFractional(num_workers, stragglers=stragglers, replicas=replicas, nodes=nodes)
    if placement == "cyclic":
        return ApproximateCyclic(num_workers, stragglers=stragglers, replicas=replicas)
    raise ValueError(f"Invalid placement value: {placement!r}. Must be 'fractional' or 'cyclic'.")


def cyclic_placement(num_workers: int, replicas: int) -> Workers:
    """Whether a worker computes a chunk, ``[num_workers, num_workers]``: worker i has chunks i to i + replicas - 1."""
    offsets = (np.arange(num_workers) - np.arange(num_workers)[:, None]) % num_workers
    placed: Workers = offsets < replicas
    return placed
