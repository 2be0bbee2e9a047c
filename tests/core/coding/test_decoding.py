"""Least-squares decode vectors, and which of them are remembered."""

import numpy as np
import pytest
from coding_rounds import all_but, workers

from orchestrator.core.coding.decoding import DecodeCache, DecodeVector, nearest_vector
from orchestrator.core.coding.scheme import Workers

REPETITION = np.repeat(np.repeat(np.eye(3), 2, axis=0), 2, axis=1)
"""Fractional repetition of 6 workers in groups of 2."""


def test_a_lost_group_leaves_the_root_of_its_chunks() -> None:
    vector = nearest_vector(REPETITION, workers(6, [0, 1, 4]))
    assert vector.residual == pytest.approx(np.sqrt(2))
    assert vector.workers.tolist() == [0, 1, 4]
    assert vector.coefficients == pytest.approx([0.5, 0.5, 1])


def test_rows_of_missing_workers_are_not_looked_at() -> None:
    broken = REPETITION.copy()
    broken[1] = np.nan
    vector = nearest_vector(broken, all_but(6, [1]))
    assert vector.residual == pytest.approx(0, abs=1e-12)
    assert 1 not in vector.workers


def test_no_messages_leave_everything_out() -> None:
    vector = nearest_vector(REPETITION, workers(6, []))
    assert vector.workers.size == 0
    assert vector.residual == pytest.approx(np.sqrt(6))


def test_negligible_coefficients_are_left_out() -> None:
    vector = DecodeVector.of(np.eye(3), np.arange(3), np.array([1.0, 1e-15, 1.0]))
    assert vector.workers.tolist() == [0, 2]
    assert vector.residual == 1


def test_vectors_are_remembered_until_others_push_them_out() -> None:
    solved: list[list[int]] = []

    def solve(arrived: Workers) -> DecodeVector:
        solved.append(np.flatnonzero(arrived).tolist())
        return nearest_vector(REPETITION, arrived)

    cache = DecodeCache(max_entries=2)
    for missing in (0, 1, 0, 2, 0, 1):
        vector = cache.vector(all_but(6, [missing]), solve)
        assert missing not in vector.workers
    assert solved == [[1, 2, 3, 4, 5], [0, 2, 3, 4, 5], [0, 1, 3, 4, 5], [0, 2, 3, 4, 5]]
    assert (cache.calls, cache.hits) == (6, 2)
