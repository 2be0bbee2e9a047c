"""The stochastic code: right in expectation, by enumerating every set of stragglers."""

from itertools import combinations

import numpy as np
import pytest
from coding_rounds import all_but, decoded_in_round, weight_matrix

from orchestrator.core.coding.stochastic import Stochastic


@pytest.mark.parametrize(("num_workers", "stragglers", "replicas"), [(5, 2, 2), (6, 1, 3), (6, 3, 1), (7, 2, 7)])
@pytest.mark.parametrize("fewer", [0, 1])
def test_the_mean_over_all_sets_of_stragglers_is_exact(
    num_workers: int, stragglers: int, replicas: int, fewer: int
) -> None:
    scheme = Stochastic(num_workers, stragglers=stragglers, replicas=replicas)
    sets = list(combinations(range(num_workers), stragglers - fewer))
    weights = [decoded_in_round(scheme, all_but(num_workers, missing))[1] for missing in sets]
    assert np.mean(weights, axis=0) == pytest.approx(np.ones(num_workers))


def test_messages_are_sums_over_copies_and_arrivals() -> None:
    scheme = Stochastic(5, stragglers=1, replicas=2)
    scheme.begin(0, has_new_job=True)
    assert scheme.loads().tolist() == [2 / 5] * 5
    matrix = weight_matrix(scheme)
    assert np.count_nonzero(matrix, axis=0).tolist() == [2] * 5
    assert matrix.max() == pytest.approx(1 / (2 * (1 - 1 / 5)))


def test_what_is_reported_is_what_the_sum_has() -> None:
    decoded, weights = decoded_in_round(Stochastic(6, stragglers=2, replicas=2), all_but(6, [0, 1]))
    assert decoded.residual == pytest.approx(np.linalg.norm(weights - 1))
    assert decoded.coverage == 5 / 6
    assert np.count_nonzero(weights) == 5


def test_it_closes_at_so_many_arrivals() -> None:
    scheme = Stochastic(6, stragglers=2, replicas=2)
    scheme.begin(0, has_new_job=True)
    assert scheme.may_close(all_but(6, [0, 1]))
    assert not scheme.may_close(all_but(6, [0, 1, 2]))


def test_chunks_go_around_the_workers() -> None:
    scheme = Stochastic(5, stragglers=1, replicas=2)
    scheme.begin(3, has_new_job=True)
    assert scheme.tasks(0)[0].chunks == (3, 4)
    assert scheme.tasks(1)[0].chunks == (0, 4)


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match=r"Invalid replicas value: 0\. Must be an integer from 1 to 6\."):
        Stochastic(6, stragglers=1, replicas=0)
    with pytest.raises(ValueError, match=r"Invalid stragglers value: 6\. Must be an integer from 0 to 5\."):
        Stochastic(6, stragglers=6, replicas=2)
