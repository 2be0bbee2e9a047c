"""Cyclic gradient codes from a random null space (arXiv 1612.03301): any num_workers - s messages give the exact sum.

    H      s x n, Gaussian, with H 1 = 0
    B      n x n, row i is in the null space of H, is 0 outside of the columns i to i + s (mod n), and B[i, i] = 1

The rows of B span the null space of H, which contains 1, and any n - s of them do so with probability 1. A decode
vector a with a B = 1 that is 0 on s given workers is then unique. With N the left null space of B and p one solution
of p B = 1, it is a = p + N c, where c makes it 0 on those workers: s unknowns instead of n - s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.checks import check_stragglers
from orchestrator.core.coding.decoding import DecodeCache, DecodeVector, nearest_vector
from orchestrator.core.coding.scheme import Workers
from orchestrator.core.errors import UndecodableError

Floats = NDArray[np.float64]

NUM_DRAWS = {True: 64, False: 8}
"""Codes of which the one that amplifies rounding errors least is taken, by whether there are few workers: draws for
four workers differ by a factor of a hundred."""
NUM_SAMPLED_SETS = 64
"""Random sets of stragglers over which codes are compared, and over which codes of many workers are checked."""
MAX_EXHAUSTIVE_WORKERS = 16
"""Up to so many workers a code is checked with every set of stragglers."""
MAX_CODE_RESIDUAL = {True: 1e-9, False: 1e-7}
"""Largest residual of a code that is taken, by whether it is checked with every set of stragglers."""
MAX_RESIDUAL = 1e-6
"""Largest residual of a decode vector that is used: far below the rounding errors of 32-bit messages."""


@dataclass(frozen=True, slots=True, eq=False)
class CyclicCode:
    """One code with what decoding it needs."""

    matrix: Floats
    """B, [num_workers, num_chunks]: the coefficient of each chunk in each worker's message."""
    num_stragglers: int
    whole: Floats
    """p, [num_workers]: decodes with all workers."""
    null_space: Floats
    """N, [num_workers, num_stragglers], orthonormal columns."""
    amplification: float
    """How much larger rounding errors of messages are in the decoded sum than in the sum of uncoded messages, the
    median over random sets of stragglers."""
    worst_amplification: float
    """The same for the worst of these sets."""

    def row(self, worker: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Chunks of a worker's message, in ascending order, and their coefficients."""
        chunks = np.flatnonzero(self.matrix[worker])
        return tuple(chunks.tolist()), tuple(self.matrix[worker, chunks].tolist())


@lru_cache(maxsize=16)
def cyclic_code(num_workers: int, num_stragglers: int, seed: int) -> CyclicCode:
    """The best of several random codes, alike for equal arguments.

    Raises:
        ValueError: where ``num_stragglers`` leaves no worker, or is so large that no draw gives a code that decodes.
    """
    check_stragglers(num_stragglers, num_workers)
    rng = np.random.default_rng([seed, num_workers, num_stragglers])
    is_exhaustive = num_workers <= MAX_EXHAUSTIVE_WORKERS
    sampled = _random_sets(rng, num_workers, num_stragglers)
    checked = _all_sets(num_workers, num_stragglers) if is_exhaustive else sampled
    draws = range(NUM_DRAWS[is_exhaustive])
    codes = [_drawn_code(rng, num_workers, num_stragglers, sampled) for _ in draws]
    # Few workers: a median hides a coefficient of several hundred that only some sets of stragglers bring out. Of many
    # workers the sets are too many to know the worst.
    for code in sorted(codes, key=lambda code: code.worst_amplification if is_exhaustive else code.amplification):
        vectors = decode_vectors(code, checked)
        residuals = np.linalg.norm(vectors @ code.matrix - 1, axis=1)
        if residuals.max() < MAX_CODE_RESIDUAL[is_exhaustive]:
            return code
    raise ValueError(
        f"Invalid stragglers value: {num_stragglers}. Must be less for a cyclic code of {num_workers} workers: "
        "its decoding would lose all precision. Scheme fractional has no such limit."
    )


def null_space_matrix(parity: Floats) -> Floats:
    """B of a matrix H ``[num_stragglers, num_workers]`` whose rows sum to 0; ``[num_workers, num_workers]``."""
    num_stragglers, num_workers = parity.shape
    rows = np.arange(num_workers)
    others = (rows[:, None] + np.arange(1, num_stragglers + 1)) % num_workers
    systems = parity[:, others].transpose(1, 0, 2)
    solved = np.linalg.solve(systems, -parity.T[:, :, None])[:, :, 0]
    matrix = np.eye(num_workers)
    matrix[rows[:, None], others] = solved
    return matrix


def decode_vectors(code: CyclicCode, stragglers: NDArray[np.intp]) -> Floats:
    """Decode vectors ``[num_sets, num_workers]`` for sets of stragglers ``[num_sets, num_stragglers]``."""
    systems = code.null_space[stragglers]
    free = np.linalg.solve(systems, -code.whole[stragglers][:, :, None])[:, :, 0]
    vectors = code.whole + free @ code.null_space.T
    np.put_along_axis(vectors, stragglers, 0.0, axis=1)
    return vectors


class CyclicDecoder:
    """Decodes with a cyclic code, which is drawn at its first use; what only asks when rounds close never waits."""

    def __init__(self, num_workers: int, num_stragglers: int, seed: int) -> None:
        check_stragglers(num_stragglers, num_workers)
        self._arguments = (num_workers, num_stragglers, seed)
        self._num_needed = num_workers - num_stragglers
        self.cache = DecodeCache()

    @property
    def code(self) -> CyclicCode:
        """The code; drawing it takes seconds for hundreds of workers.

        Raises:
            ValueError: where no draw gives a code that decodes.
        """
        return cyclic_code(*self._arguments)

    def vector(self, arrived: Workers) -> DecodeVector:
        """The decode vector over the first num_workers - s of the workers that arrived.

        Raises:
            UndecodableError: where fewer have arrived, or the vector does not give the exact sum.
        """
        present = np.flatnonzero(arrived)
        if len(present) < self._num_needed:
            raise UndecodableError(
                f"A cyclic code needs the messages of {self._num_needed} of {len(arrived)} workers; "
                f"{len(present)} are there."
            )
        used = np.zeros_like(arrived)
        used[present[: self._num_needed]] = True
        vector = self.cache.vector(used, self._solve)
        if not vector.residual <= MAX_RESIDUAL:
            raise UndecodableError(
                f"The messages at hand give the sum with a residual of {vector.residual:.1e}; "
                f"at most {MAX_RESIDUAL:.0e} is exact enough."
            )
        return vector

    def _solve(self, used: Workers) -> DecodeVector:
        coefficients = decode_vectors(self.code, np.flatnonzero(~used)[None])[0]
        workers = np.flatnonzero(used)
        vector = DecodeVector.of(self.code.matrix, workers, coefficients[workers])
        # For a few sets of hundreds of workers the small system is so ill-conditioned that only the large one will do.
        return vector if vector.residual <= MAX_RESIDUAL else nearest_vector(self.code.matrix, used)


def _drawn_code(
    rng: np.random.Generator, num_workers: int, num_stragglers: int, sampled: NDArray[np.intp]
) -> CyclicCode:
    """One random code, its amplification measured over sets of stragglers ``[num_sets, num_stragglers]``."""
    parity = rng.standard_normal((num_stragglers, num_workers))
    parity[:, -1] -= parity.sum(axis=1)
    matrix = null_space_matrix(parity)
    left, sizes, right = np.linalg.svd(matrix)
    rank = num_workers - num_stragglers
    whole = left[:, :rank] @ (right[:rank].sum(axis=1) / sizes[:rank])
    code = CyclicCode(matrix, num_stragglers, whole, left[:, rank:], np.inf, np.inf)
    noise_sq = decode_vectors(code, sampled) ** 2 @ (matrix**2).sum(axis=1)
    typical, worst = np.sqrt(np.array([np.median(noise_sq), noise_sq.max()]) / num_workers).tolist()
    return replace(code, amplification=typical, worst_amplification=worst)


def _random_sets(rng: np.random.Generator, num_workers: int, num_stragglers: int) -> NDArray[np.intp]:
    """Sets of stragglers, ``[NUM_SAMPLED_SETS, num_stragglers]``."""
    order = rng.permuted(np.tile(np.arange(num_workers), (NUM_SAMPLED_SETS, 1)), axis=1)
    return np.sort(order[:, :num_stragglers], axis=1)


def _all_sets(num_workers: int, num_stragglers: int) -> NDArray[np.intp]:
    """Every set of so many stragglers, ``[num_sets, num_stragglers]``."""
    num_sets = comb(num_workers, num_stragglers)
    members = (worker for chosen in combinations(range(num_workers), num_stragglers) for worker in chosen)
    return np.fromiter(members, np.intp, num_sets * num_stragglers).reshape(num_sets, num_stragglers)
