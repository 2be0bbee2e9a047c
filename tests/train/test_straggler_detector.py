"""The detector on made-up times: who is named, when, and who is not."""

import math
import random
from collections.abc import Callable

import pytest

from orchestrator.core.stragglers import MIN_SLOW_STEPS, SlowWorker, StragglerDetector, relative_times

Times = Callable[[int, int], float | None]
"""(step, worker) -> seconds."""


def play(
    seconds: Times, *, workers: int = 4, steps: int = 200, elements: Times = lambda step, worker: 1024
) -> tuple[StragglerDetector, list[tuple[int, SlowWorker]]]:
    """The detector after some steps, and what it found at which of them."""
    detector, found = StragglerDetector(workers), []
    for step in range(1, steps + 1):
        times = [seconds(step, worker) for worker in range(workers)]
        counts = [elements(step, worker) for worker in range(workers)]
        found += [(step, change) for change in detector.update(step, times, counts)]
    return detector, found


def noisy(seconds: Times, spread: float, seed: int = 0) -> Times:
    """The same times with lognormal noise."""
    noise = random.Random(seed)
    return lambda step, worker: (seconds(step, worker) or 0.0) * math.exp(noise.gauss(0, spread))


def slow_from(start: int, end: int = 10**9, *, worker: int = 2, factor: float = 2.0) -> Times:
    """A tenth of a second, and ``factor`` times that for one worker in steps start..end."""
    return lambda step, w: 0.1 * (factor if w == worker and start <= step <= end else 1.0)


@pytest.mark.parametrize("workers", [3, 4, 5, 16])
def test_a_worker_that_stays_slow_is_named_once(workers: int) -> None:
    detector, found = play(noisy(slow_from(50, factor=1.5), 0.02), workers=workers)
    ((step, straggler),) = found
    assert (straggler.name, straggler.worker) == ("straggler", 2)
    # 0.25 of 1.5 is not yet above 1.2: the second slow step is the first of the stretch.
    assert straggler.since_step == 51
    assert step == 51 + MIN_SLOW_STEPS
    assert straggler.num_steps == MIN_SLOW_STEPS + 1
    assert straggler.ratio == pytest.approx(1.5, rel=0.02)
    assert detector.ratios[2] == pytest.approx(1.5, rel=0.05)
    (now,) = detector.slow
    assert (now.worker, now.num_steps) == (2, 200 - 50)


def test_a_worker_that_recovers_is_over_once_and_may_be_slow_again() -> None:
    slow, again = slow_from(50, 99), slow_from(150, 199)
    _, found = play(lambda step, worker: max(slow(step, worker) or 0, again(step, worker) or 0), steps=250)
    assert [(change.name, change.since_step) for _, change in found] == [
        ("straggler", 50),
        ("straggler_over", 50),
        ("straggler", 150),
        ("straggler_over", 150),
    ]
    step, over = found[1]
    # Smoothed, 2 falls below 1.2 with the sixth ordinary step; those five count as slow at their own pace.
    assert step == 99 + 6
    assert over.num_steps == 50 + 5
    assert over.ratio == pytest.approx((50 * 2 + 5) / 55)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("factor", [5, 100])
def test_bursts_are_not_named(workers: int, factor: float) -> None:
    """One step in 25 takes 5 or 100 times as long, always on the same worker."""
    seconds: Times = lambda step, worker: 0.1 * (factor if worker == 1 and step % 25 == 0 else 1.0)  # noqa: E731
    detector, found = play(seconds, workers=workers, steps=1000)
    assert found == []
    assert detector.slow == []


def test_twenty_slow_steps_are_not_enough() -> None:
    """Far above the threshold from the first step on; what smoothing adds behind the last is part of the stretch."""
    _, found = play(slow_from(50, 50 + MIN_SLOW_STEPS - 7))
    assert found == []
    _, found = play(slow_from(50, 50 + MIN_SLOW_STEPS - 5))
    assert [change.name for _, change in found] == ["straggler", "straggler_over"]


@pytest.mark.parametrize(("workers", "spread"), [(1, 0.5), (2, 0.2), (3, 0.5), (8, 0.5)])
def test_noise_that_all_workers_share_names_nobody(workers: int, spread: float) -> None:
    """With a spread of 0.5 each worker's mean is 13% above the median, and what it smooths to is often above 1.2."""
    for seed in range(3):
        _, found = play(noisy(lambda step, worker: 0.1, spread, seed), workers=workers, steps=1000)
        assert found == []


@pytest.mark.parametrize("factor", [1.15, 1.3])
def test_of_two_workers_the_faster_one_is_the_measure(factor: float) -> None:
    """The mean of both would show 1.3 as 1.13."""
    detector, found = play(noisy(slow_from(1, worker=0, factor=factor), 0.02), workers=2)
    assert detector.ratios[0] == pytest.approx(factor, rel=0.05)
    assert detector.ratios[1] == pytest.approx(1.0, rel=0.05)
    assert [change.worker for _, change in found] == ([0] if factor > 1.2 else [])


def test_a_slower_half_is_named_and_a_slower_majority_is_the_norm() -> None:
    half: Times = lambda step, worker: 0.2 if worker < 2 else 0.1  # noqa: E731
    _, found = play(half)
    assert sorted(change.worker for _, change in found) == [0, 1]
    most: Times = lambda step, worker: 0.1 if worker == 0 else 0.2  # noqa: E731
    _, found = play(most)
    assert found == []


def test_a_worker_alone_is_never_slow() -> None:
    detector, found = play(slow_from(50, worker=0, factor=9), workers=1)
    assert (found, detector.ratios) == ([], [1.0])


def test_more_data_is_no_fault_of_the_worker() -> None:
    """Worker 2 has twice the elements: at twice the time it is ordinary, at four times it is twice as slow."""
    elements: Times = lambda step, worker: 2048 if worker == 2 else 1024  # noqa: E731
    detector, found = play(slow_from(1, factor=2), elements=elements)
    assert (found, detector.ratios[2]) == ([], pytest.approx(1.0))
    detector, found = play(slow_from(1, factor=4), elements=elements)
    ((_, straggler),) = found
    assert (straggler.worker, straggler.ratio) == (2, pytest.approx(2.0))
    assert detector.ratios[2] == pytest.approx(2.0)


def test_less_data_in_the_same_time_holds_nobody_up() -> None:
    """Half the elements at the same time, as where a step costs the same however small: no straggler."""
    detector, found = play(lambda step, worker: 0.1, elements=lambda step, worker: 512 if worker == 2 else 1024)
    assert (found, max(detector.ratios)) == ([], 1.0)


def test_lengths_that_differ_at_random_hide_no_slow_worker() -> None:
    lengths = random.Random(1)
    drawn = {(step, worker): lengths.randint(500, 1500) for step in range(1, 401) for worker in range(4)}
    seconds: Times = lambda step, worker: drawn[step, worker] * (1.5e-4 if worker == 2 else 1e-4)  # noqa: E731
    _, found = play(seconds, steps=400, elements=lambda step, worker: drawn[step, worker])
    assert {change.worker for _, change in found} == {2}


@pytest.mark.parametrize("unknown", [None, 0])
def test_without_elements_the_seconds_count(unknown: float | None) -> None:
    _, found = play(slow_from(1), elements=lambda step, worker: unknown)
    assert [change.worker for _, change in found] == [2]
    # Worker 2 alone has none, and is judged beside others that have.
    _, found = play(slow_from(1), elements=lambda step, worker: unknown if worker == 2 else 1024)
    assert [change.worker for _, change in found] == [2]


@pytest.mark.parametrize("unknown", [None, math.nan, 0.0])
def test_an_unknown_time_leaves_the_worker_as_it_was(unknown: float | None) -> None:
    slow = slow_from(1)
    gaps: Times = lambda step, worker: unknown if worker == 2 and step % 2 else slow(step, worker)  # noqa: E731
    detector, found = play(gaps, steps=100)
    ((step, straggler),) = found
    # Every other step is known; the first one makes 1.25.
    assert (straggler.since_step, step) == (2, 2 + 2 * MIN_SLOW_STEPS)
    assert detector.ratios[2] == pytest.approx(2.0)


def test_a_step_that_few_workers_know_tells_nothing() -> None:
    detector, found = play(lambda step, worker: [None, None, 0.1, 0.9][worker])
    assert (found, detector.ratios) == ([], [])
    detector, found = play(lambda step, worker: [None, 0.9][worker], workers=2)
    assert (found, detector.ratios) == ([], [])


def test_relative_times() -> None:
    assert relative_times({0: 1.0, 3: 2.0, 5: 6.0}) == {0: 0.5, 3: 1.0, 5: 3.0}
    assert relative_times({0: 1.0, 1: 2.0, 2: 4.0, 3: 6.0}) == {0: 1 / 3, 1: 2 / 3, 2: 4 / 3, 3: 2.0}
    assert relative_times({1: 3.0, 2: 2.0}) == {1: 1.5, 2: 1.0}
    assert relative_times({4: 3.0}) == {4: 1.0}
