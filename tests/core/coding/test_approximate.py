"""Approximate codes: exact where they can be, least squares where not, and scaled to stand for the whole batch."""

from itertools import combinations

import numpy as np
import pytest
from coding_rounds import all_but, decoded_in_round, weight_matrix, workers

from orchestrator.core.coding.approximate import ApproximateCyclic, ApproximateFractional, approximate


def least_squares_residual(matrix: np.ndarray, arrived: np.ndarray) -> float:
    rows = matrix[arrived]
    return float(np.linalg.norm(rows.T @ np.linalg.pinv(rows.T) @ np.ones(matrix.shape[1]) - 1))


@pytest.mark.parametrize("placement", ["fractional", "cyclic"])
@pytest.mark.parametrize(("num_workers", "stragglers", "replicas"), [(6, 2, 2), (7, 3, 2), (6, 3, 3), (5, 2, 1)])
def test_every_set_of_stragglers(placement: str, num_workers: int, stragglers: int, replicas: int) -> None:
    scheme = approximate(num_workers, stragglers=stragglers, replicas=replicas, placement=placement)
    for missing in combinations(range(num_workers), stragglers):
        arrived = all_but(num_workers, missing)
        decoded, weights = decoded_in_round(scheme, arrived)
        matrix = weight_matrix(scheme)
        assert decoded.residual == pytest.approx(least_squares_residual(matrix, arrived), abs=1e-9)
        assert weights.mean() == pytest.approx(1)
        assert decoded.coverage == matrix[arrived].any(axis=0).mean()
        if decoded.residual < 1e-9:
            assert weights == pytest.approx(np.ones(len(weights)))


def test_a_lost_group_of_fractional_placement() -> None:
    """The closed form: residual^2 = lost groups x copies, 1 of 3 groups of 2 chunks."""
    scheme = ApproximateFractional(6, stragglers=2, replicas=2)
    decoded, weights = decoded_in_round(scheme, all_but(6, [1, 4]))
    assert decoded.residual == pytest.approx(np.sqrt(2))
    assert decoded.coverage == pytest.approx(2 / 3)
    assert sorted(weights.tolist()) == pytest.approx([0, 0, 1.5, 1.5, 1.5, 1.5])


def test_fractional_placement_closes_at_once_where_it_is_exact() -> None:
    scheme = ApproximateFractional(6, stragglers=1, replicas=2)
    decoded, weights = decoded_in_round(scheme, workers(6, [0, 1, 5]))
    assert weights.tolist() == [1.0] * 6
    assert decoded.residual == 0
    assert not scheme.may_close(workers(6, [0, 3, 2, 5]))
    assert scheme.may_close(workers(6, [0, 3, 2, 5, 1]))


def test_cyclic_placement_closes_at_so_many_arrivals() -> None:
    scheme = ApproximateCyclic(8, stragglers=3, replicas=2)
    scheme.begin(0, has_new_job=True)
    assert not scheme.may_close(all_but(8, [0, 1, 2, 3]))
    assert scheme.may_close(all_but(8, [0, 1, 2]))
    assert scheme.loads().tolist() == [2 / 8] * 8


def test_cyclic_placement_is_exact_where_chunks_can_be_tiled() -> None:
    """Workers 0, 2, 4, 6 hold every chunk once; worker 1 adds nothing to that."""
    decoded, weights = decoded_in_round(ApproximateCyclic(8, stragglers=3, replicas=2), workers(8, [0, 1, 2, 4, 6]))
    assert decoded.messages == ((0, 0), (2, 0), (4, 0), (6, 0))
    assert weights == pytest.approx(np.ones(8))


def test_equal_sets_of_cyclic_placement_are_solved_once() -> None:
    scheme = ApproximateCyclic(8, stragglers=3, replicas=2)
    for round_index in range(3):
        decoded_in_round(scheme, all_but(8, [0, 1, 2]), round_index)
    assert (scheme.cache.calls, scheme.cache.hits) == (3, 2)


@pytest.mark.parametrize("placement", ["fractional", "cyclic"])
def test_lost_chunks_go_around(placement: str) -> None:
    scheme = approximate(6, stragglers=2, replicas=2, placement=placement)
    lost = np.zeros(6)
    for round_index in range(6):
        decoded, _ = decoded_in_round(scheme, all_but(6, [1, 2] if placement == "cyclic" else [1, 4]), round_index)
        used = [worker for worker, _ in decoded.messages]
        lost += ~weight_matrix(scheme)[used].any(axis=0)
    assert lost.min() == lost.max() > 0


def test_replicas_of_a_chunk_are_on_different_nodes() -> None:
    nodes = ["a", "b", "c", "a", "b", "c"]
    scheme = approximate(6, stragglers=2, replicas=2, placement="fractional", nodes=nodes)
    assert isinstance(scheme, ApproximateFractional)
    for group in range(3):
        assert len({nodes[worker] for worker in np.flatnonzero(scheme.groups == group)}) == 2


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match=r"Invalid placement value: 'grid'\. Must be 'fractional' or 'cyclic'\."):
        approximate(6, stragglers=1, replicas=2, placement="grid")
    for placement in ("fractional", "cyclic"):
        with pytest.raises(ValueError, match=r"Invalid replicas value: 7\. Must be an integer from 1 to 6\."):
            approximate(6, stragglers=1, replicas=7, placement=placement)
        with pytest.raises(ValueError, match=r"Invalid stragglers value: 6\."):
            approximate(6, stragglers=6, replicas=2, placement=placement)
