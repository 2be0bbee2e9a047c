"""Straggler models: the tests of one round after the other are those of the definitions over whole patterns."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
from coding_rounds import workers
from straggler_patterns import Arbitrary, PerRound, StragglerModel, is_arbitrary, is_bursty, subsets

from orchestrator.core.coding.scheme import Workers
from orchestrator.core.coding.stragglers import Bursty


def is_admitted(model: StragglerModel, pattern: Sequence[Workers]) -> bool:
    for stragglers in pattern:
        if not model.admits(stragglers):
            return False
        model.append(stragglers)
    return True


def agree(build: Callable[[], StragglerModel], holds: Callable[[Sequence[Workers]], bool], num_rounds: int) -> int:
    """Checks every pattern of two workers; how many the model has."""
    num_admitted = 0
    for pattern in product(list(subsets(2)), repeat=num_rounds):
        assert is_admitted(build(), pattern) == holds(pattern)
        num_admitted += holds(pattern)
    return num_admitted


@pytest.mark.parametrize(
    "parameters", [(1, 2, 1), (1, 2, 2), (2, 3, 2), (1, 3, 2), (2, 4, 1), (3, 4, 2), (2, 2, 1), (1, 1, 1)], ids=str
)
def test_bursty_patterns_are_those_of_the_definition(parameters: tuple[int, int, int]) -> None:
    burst, window, most = parameters

    def build() -> StragglerModel:
        return Bursty(2, burst=burst, window=window, max_stragglers=most)

    assert 1 < agree(build, lambda pattern: is_bursty(pattern, *parameters), 5) < 4**5


@pytest.mark.parametrize("parameters", [(1, 2, 1), (1, 3, 2), (2, 3, 1), (2, 3, 2), (2, 4, 2), (1, 1, 1)], ids=str)
def test_arbitrary_patterns_are_those_of_the_definition(parameters: tuple[int, int, int]) -> None:
    num_rounds, window, most = parameters

    def build() -> StragglerModel:
        return Arbitrary(2, num_rounds=num_rounds, window=window, max_stragglers=most)

    assert 1 < agree(build, lambda pattern: is_arbitrary(pattern, *parameters), 5) < 4**5


def test_per_round_counts_the_present_round_alone() -> None:
    model = PerRound(2)
    for members in ([0, 1], [2, 3], [0, 1]):
        assert model.admits(workers(5, members))
        model.append(workers(5, members))
    assert not model.admits(workers(5, [0, 1, 2]))


def test_asking_changes_nothing() -> None:
    model = Bursty(4, burst=1, window=2, max_stragglers=1)
    assert model.admits(workers(4, [0]))
    assert model.admits(workers(4, [1]))
    model.append(workers(4, [1]))
    assert not model.admits(workers(4, [0]))
    assert not model.admits(workers(4, [1]))
    model.append(workers(4, []))
    assert model.admits(np.array([True, False, False, False]))
