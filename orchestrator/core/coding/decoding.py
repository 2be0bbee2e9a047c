"""Decode vectors: coefficients with which messages add up to the whole batch. In fp64, checked, and remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.scheme import Workers

CACHE_ENTRIES = 1024
"""Sets of workers whose decode vectors are remembered; 2 MB for 256 workers."""
NEGLIGIBLE = 1e-12
"""Coefficients below this share of the largest are rounding errors of 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeVector:
    """Coefficients for the messages of some workers."""

    workers: NDArray[np.intp]
    """[num_used] in ascending order; only those whose coefficient is not 0."""
    coefficients: NDArray[np.float64]
    """[num_used] one for each."""
    residual: float
    """Euclidean distance between the weights that chunks have in the sum and all ones."""

    @staticmethod
    def of(matrix: NDArray[np.float64], workers: NDArray[np.intp], coefficients: NDArray[np.float64]) -> DecodeVector:
        """Leaves out negligible coefficients and computes the residual of what is left.

        Args:
            matrix: ``[num_workers, num_chunks]`` coefficient of each chunk in each worker's message.
            workers: ``[num_present]`` in ascending order.
            coefficients: ``[num_present]`` one for each.
        """
        sizes = np.abs(coefficients)
        is_used = sizes > NEGLIGIBLE * sizes.max(initial=0.0)
        workers, coefficients = workers[is_used], coefficients[is_used]
        residual = float(np.linalg.norm(coefficients @ matrix[workers] - 1))
        return DecodeVector(workers=workers, coefficients=coefficients, residual=residual)


def nearest_vector(matrix: NDArray[np.float64], arrived: Workers) -> DecodeVector:
    """The least-squares decode vector: the sum of messages in which chunks' weights are closest to all ones.

    Its residual is 0 to rounding where the messages determine the exact sum.

    Args:
        matrix: ``[num_workers, num_chunks]`` coefficient of each chunk in each worker's message.
        arrived: Workers whose messages may be used; the rows of others are not even looked at.
    """
    workers = np.flatnonzero(arrived)
    coefficients = np.linalg.lstsq(matrix[workers].T, np.ones(matrix.shape[1]))[0]
    return DecodeVector.of(matrix, workers, coefficients.astype(np.float64, copy=False))


class DecodeCache:
    """Decode vectors of one code, remembered for the sets of workers that were asked for last."""

    def __init__(self, max_entries: int = CACHE_ENTRIES) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, DecodeVector] = OrderedDict()
        self.calls = 0
        """Vectors asked for."""
        self.hits = 0
        """Of these, vectors that were remembered."""

    def vector(self, workers: Workers, solve: Callable[[Workers], DecodeVector]) -> DecodeVector:
        """The vector for a set of workers; ``solve`` is called where it is not remembered."""
        self.calls += 1
        key = np.packbits(workers).tobytes()
        known = self._entries.pop(key, None)
        if known is None:
            known = solve(workers)
        else:
            self.hits += 1
        self._entries[key] = known
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
        return known
