"""What is the worker's and what the data's in a record."""

import numpy as np
import pytest
from made_records import Floats, bursty, noise, one_slow_worker, record_of, slow_data

from orchestrator.core.errors import UsageError
from orchestrator.simulate.stragglers.recorded import (
    elements_exponent,
    estimate,
    slow_workers,
    with_ordinary,
)

UNKNOWN = np.nan


def unknown_like(values: Floats) -> Floats:
    return np.full_like(values, UNKNOWN)


def test_equal_data_leave_all_to_the_workers() -> None:
    made = bursty()
    found = estimate(made.record)
    assert (found.exponent, found.uneven_work, found.num_unknown) == (None, None, 0)
    assert found.trace.batch_work is None
    assert found.trace.per_batch_s == pytest.approx(8 * made.factors)
    assert found.trace.uncoded_s() == pytest.approx(made.factors)


def test_work_is_told_from_factors() -> None:
    made = slow_data()
    found = estimate(made.record)
    assert found.exponent == pytest.approx(1, abs=0.03)
    assert found.trace.batch_work is not None
    relative = made.work / made.work.mean()
    assert found.trace.batch_work == pytest.approx(relative, rel=0.06)
    assert found.trace.per_batch_s == pytest.approx(8 * made.factors * made.work.mean(), rel=0.06)
    # Whatever the exponent, uncoded steps take what was recorded.
    assert found.trace.uncoded_s() == pytest.approx(made.factors * made.work)
    assert found.uneven_work == pytest.approx(6 / (13 / 8), rel=0.05)


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0, 1.7])
def test_the_exponent(exponent: float) -> None:
    rng = np.random.default_rng(0)
    elements = rng.uniform(1e4, 4e4, (40, 6))
    factors = noise(40, 6, seed=7) * np.where(rng.random((40, 6)) < 0.08, 10, 1) * np.array([1, 1, 3, 1, 1, 0.5])
    assert elements_exponent(factors * elements**exponent, elements) == pytest.approx(exponent, abs=0.04)


def test_the_exponent_is_told_by_elements_that_differ_much() -> None:
    rng = np.random.default_rng(0)
    seconds = np.where(rng.random((40, 6)) < 0.2, 4.0, 1.0)
    elements = rng.uniform(999, 1001, (40, 6)) * seconds
    assert elements_exponent(seconds, elements) == pytest.approx(1, abs=0.01)


def test_the_exponent_stays_in_its_range() -> None:
    elements = np.random.default_rng(0).uniform(1, 4, (40, 6))
    assert elements_exponent(elements**-1.0, elements) == 0
    assert elements_exponent(elements**3, elements) == 2


def test_workers_with_always_unequal_parts_are_not_slow() -> None:
    """Nothing tells whether a worker that always gets more is slow, so the data are taken for the reason."""
    elements = np.tile([100.0, 100.0, 200.0, 100.0], (30, 1))
    found = estimate(record_of(elements / 100, elements))
    assert found.exponent == 1
    assert found.trace.per_batch_s == pytest.approx(np.full((30, 4), 4 * 1.25))


def test_seconds_that_do_not_grow() -> None:
    made = slow_data()
    record = record_of(0.5 + made.factors * made.work, 1000 * made.work)
    found = estimate(record, fixed_s=0.5)
    assert np.all(found.trace.fixed_s == 0.5)
    assert found.exponent == pytest.approx(1, abs=0.03)
    assert found.trace.uncoded_s() == pytest.approx(record.seconds)
    shares = np.full(8, 2 / 8)
    assert estimate(bursty().record).trace.seconds(0, shares) == pytest.approx(2 * bursty().factors[0])


def test_fixed_seconds_that_are_more_than_all() -> None:
    record = record_of(np.array([[1.0, 0.5], [1.0, 0.25]]), np.ones((2, 2)))
    with pytest.raises(UsageError) as caught:
        estimate(record, fixed_s=0.3)
    assert str(caught.value) == "fixed_s: 0.3 s is not less than the 0.25 s that worker 1 took in step 2."


def test_times_that_are_not_known() -> None:
    made = bursty()
    seconds = made.factors.copy()
    seconds[3, 2] = UNKNOWN
    found = estimate(record_of(seconds, np.ones_like(seconds)))
    assert found.num_unknown == 1
    assert found.trace.uncoded_s()[3, 2] == pytest.approx(np.nanmax(seconds[3]))


def test_a_worker_that_left_a_step_took_as_long_as_the_others_at_least() -> None:
    seconds = np.ones((20, 4))
    seconds[2] = [1.0, 2.0, 0.7, 1.0]
    seconds[3] = [1.0, 2.0, 9.0, 1.0]
    elements = np.full((20, 4), 100.0)
    elements[2:4, 2] = UNKNOWN
    found = estimate(record_of(seconds, elements))
    assert found.num_unknown == 2
    assert found.trace.uncoded_s()[2:4, 2] == pytest.approx([2.0, 9.0])


def test_without_any_elements_all_times_count() -> None:
    made = bursty()
    found = estimate(record_of(made.factors, unknown_like(made.factors)))
    assert (found.num_unknown, found.exponent) == (0, None)
    assert found.trace.uncoded_s() == pytest.approx(made.factors)


def test_a_step_of_which_nothing_is_known_is_left_out() -> None:
    seconds = np.array([[1.0, 2.0], [UNKNOWN, UNKNOWN], [3.0, 4.0]] * 10)
    assert estimate(record_of(seconds, unknown_like(seconds))).trace.uncoded_s()[:2].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("num_steps", [8, 0])
def test_too_little_is_known(num_steps: int) -> None:
    seconds = np.ones((num_steps, 2))
    seconds[:2, 0] = UNKNOWN
    with pytest.raises(UsageError, match="times at most a lower bound is known, as a step need not wait"):
        estimate(record_of(seconds, unknown_like(seconds)))


def test_a_coded_job_computed_more_than_its_share() -> None:
    """Workers that each computed a quarter of every batch; who computed which part is not known."""
    elements = np.random.default_rng(0).uniform(50, 200, (30, 8))
    record = record_of(2 * elements / elements.mean(), elements, load=2 / 8, in_order=False)
    found = estimate(record)
    assert found.exponent == pytest.approx(1)
    assert found.trace.batch_work is None
    assert found.trace.uncoded_s() == pytest.approx(np.ones((30, 8)))


def test_a_slow_worker_is_named() -> None:
    (slow,) = slow_workers(one_slow_worker().record)
    assert slow.worker == 5
    assert slow.ratio == pytest.approx(3, rel=0.05)
    assert slow.since_step <= 5


def test_nobody_is_named_for_bursts_or_for_data() -> None:
    assert slow_workers(bursty().record) == []
    assert slow_workers(slow_data().record) == []


def test_a_worker_that_has_recovered_is_not_named() -> None:
    factors = noise(100, 4)
    factors[20:60, 1] *= 2
    assert slow_workers(record_of(factors, np.ones_like(factors))) == []


def test_ordinary_workers_in_the_place_of_slow_ones() -> None:
    made = one_slow_worker()
    ordinary = with_ordinary(estimate(made.record).trace, [5]).uncoded_s()
    others = np.delete(made.factors, 5, axis=1)
    assert np.delete(ordinary, 5, axis=1) == pytest.approx(others)
    assert ordinary[:, 5] == pytest.approx(np.median(others, axis=1))
