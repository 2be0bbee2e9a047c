"""How long simulated workers take."""

from itertools import islice

import numpy as np
import pytest

from orchestrator.core.errors import UsageError
from orchestrator.simulate.delay.times import GammaTimes, recorded_times
from orchestrator.simulate.stragglers.recorded import Record

NAN = np.nan


def record(seconds: list[list[float]], elements: list[list[float]] | None = None) -> Record:
    times = np.array(seconds, np.float64)
    sizes = np.full_like(times, NAN) if elements is None else np.array(elements)
    return Record(
        steps=np.arange(1, len(times) + 1), seconds=times, elements=sizes, load=1 / times.shape[1], in_order=False
    )


@pytest.mark.parametrize("cv", [0.1, 0.3, 1.0])
def test_gamma_has_its_mean_and_spread(cv: float) -> None:
    times = GammaTimes(num_workers=3, cv=cv, slow={1: 4.0}, seed=0)
    for worker, mean in ((0, 1.0), (1, 4.0), (2, 1.0)):
        drawn = np.array(list(islice(times.of(worker), 20_000)))
        assert drawn.min() > 0
        assert drawn.mean() == pytest.approx(mean, rel=0.03)
        assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.05)


def test_a_workers_times_are_its_own() -> None:
    few, many = (GammaTimes(num_workers=n, cv=0.3, seed=3) for n in (2, 9))
    assert list(islice(few.of(1), 600)) == list(islice(many.of(1), 600))
    assert list(islice(few.of(0), 5)) != list(islice(few.of(1), 5))
    assert list(islice(GammaTimes(num_workers=1, cv=0, slow={0: 2.0}, seed=0).of(0), 3)) == [2.0] * 3


def test_recorded_times_begin_again_and_leave_gaps_out() -> None:
    times = recorded_times(record([[1, 5], [NAN, 6], [3, 7]]), {1: 2.0})
    assert list(islice(times.of(0), 5)) == [1, 3, 1, 3, 1]
    assert list(islice(times.of(1), 4)) == [10, 12, 14, 10]


def test_lower_bounds_count_as_the_slowest_of_their_step() -> None:
    seconds = [[1.0, 2.0]] * 9 + [[0.5, 3.0]]
    elements = [[8.0, 8.0]] * 9 + [[NAN, 8.0]]
    times = recorded_times(record(seconds, elements), {})
    assert list(islice(times.of(0), 10)) == [1.0] * 9 + [3.0]
    with pytest.raises(UsageError, match="Of 10 of 20 times only a lower bound is known"):
        recorded_times(record(seconds, [[NAN, 8.0]] * 10), {})


@pytest.mark.parametrize(
    ("seconds", "message"),
    [([[1, NAN], [2, NAN]], "Worker 1 has no recorded times"), ([[1, 1], [0, 1]], "Worker 0 has a recorded time of 0")],
)
def test_unusable_records(seconds: list[list[float]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recorded_times(record(seconds), {})


@pytest.mark.parametrize(
    "wrong", [{"num_workers": 0}, {"cv": -1.0}, {"cv": 3.5}, {"slow": {2: 4.0}}, {"slow": {0: 0.0}}]
)
def test_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Invalid"):
        GammaTimes(**{"num_workers": 2, "cv": 0.3, "seed": 0, **wrong})  # type: ignore[arg-type]
