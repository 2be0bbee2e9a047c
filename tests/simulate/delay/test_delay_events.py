"""The order of simulated pushes against times that are merged by hand."""

import heapq
from collections import Counter
from itertools import accumulate, islice, repeat
from pathlib import Path

import pytest

from orchestrator.simulate.delay.events import PushRules, fixed_delay, simulate
from orchestrator.simulate.delay.times import GammaTimes, RecordedTimes
from orchestrator.spec.push_order import OrderedPush, read_order, write_order


def gamma(num_workers: int, cv: float = 0.3, slow: dict[int, float] | None = None, seed: int = 0) -> GammaTimes:
    return GammaTimes(num_workers=num_workers, cv=cv, slow=slow or {}, seed=seed)


def merged(times: GammaTimes, num_pushes: int, *, pushes_per_update: int, push_s: float) -> list[tuple[int, int, int]]:
    """(update, worker, read_version) where nothing is refused and workers begin when their push has arrived."""
    arrivals = [accumulate(s + push_s for s in times.of(worker)) for worker in range(times.num_workers)]
    streams = [zip(times_s, repeat(worker), strict=False) for worker, times_s in enumerate(arrivals)]
    order, reads = [], [0] * times.num_workers
    for index, (_, worker) in enumerate(islice(heapq.merge(*streams), num_pushes)):
        order.append((index // pushes_per_update, worker, reads[worker]))
        reads[worker] = (index + 1) // pushes_per_update
    return order


@pytest.mark.parametrize(("pushes_per_update", "push_s"), [(1, 0.0), (1, 0.4), (3, 0.0), (5, 0.2)])
def test_equals_merged_times(pushes_per_update: int, push_s: float) -> None:
    times = gamma(6, slow={2: 3.5})
    course = simulate(times, PushRules(num_updates=80, pushes_per_update=pushes_per_update, push_s=push_s))
    # The last pushes differ, as workers that finish then have no chunk to begin.
    num_alike = 80 * pushes_per_update - times.num_workers
    expected = merged(times, num_alike, pushes_per_update=pushes_per_update, push_s=push_s)
    assert [(push.update, push.worker, push.read_version) for push in course.order[:num_alike]] == expected
    assert course.refused == (0,) * 6
    assert sum(course.accepted) == 80 * pushes_per_update


@pytest.mark.parametrize(("num_workers", "mean", "most"), [(8, 7.0, 18), (16, 14.9, 39), (32, 30.5, 74)])
def test_delays_of_equal_workers(num_workers: int, mean: float, most: int) -> None:
    delays = [push.delay for push in simulate(gamma(num_workers), PushRules(num_updates=1100)).order]
    assert sum(delays) / len(delays) == pytest.approx(mean, abs=0.06)
    assert max(delays) == pytest.approx(most, rel=0.2)


def test_a_slow_worker_has_the_oldest_pushes() -> None:
    course = simulate(gamma(16, slow={0: 4.0}), PushRules(num_updates=1100))
    oldest = max(course.order, key=lambda push: push.delay)
    assert oldest.worker == 0
    assert 70 < oldest.delay < 110
    assert course.accepted[0] < min(course.accepted[1:]) / 3
    assert course.speedup > 3


def test_an_order_can_be_written_and_read(tmp_path: Path) -> None:
    rules = PushRules(num_updates=60, pushes_per_update=2, max_delay=4, max_lead=5, overlap=True, push_s=0.3)
    course = simulate(gamma(5, slow={1: 6.0}), rules)
    write_order(tmp_path / "order.csv", course.order)
    assert tuple(read_order(tmp_path / "order.csv")) == course.order
    assert sorted(push.chunk for push in course.order) == list(range(120))


def test_the_same_at_every_call() -> None:
    rules = PushRules(num_updates=100)
    assert simulate(gamma(4), rules) == simulate(gamma(4), rules)
    assert simulate(gamma(4), rules).order != simulate(gamma(4, seed=1), rules).order


def test_too_old_pushes_are_refused_and_their_chunks_computed_again() -> None:
    course = simulate(gamma(6, slow={0: 5.0}), PushRules(num_updates=200, max_delay=7))
    assert max(push.delay for push in course.order) == 7
    assert course.refused[0] > 0
    assert sorted(push.chunk for push in course.order) == list(range(200))
    # Every push of the slow worker is too old as long as the others have work.
    assert [push.update for push in course.order if push.worker == 0] == [199]


@pytest.mark.parametrize("overlap", [False, True])
def test_no_delay_allowed_still_goes_on(overlap: bool) -> None:
    course = simulate(gamma(4), PushRules(num_updates=50, max_delay=0, overlap=overlap))
    assert [push.delay for push in course.order] == [0] * 50
    assert sum(course.refused) > 50


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("max_lead", [0, 1, 4])
def test_nobody_runs_ahead(max_lead: int, overlap: bool) -> None:
    rules = PushRules(num_updates=150, max_lead=max_lead, overlap=overlap, push_s=0.2)
    course = simulate(gamma(5, slow={3: 3.0}), rules)
    counts = Counter(dict.fromkeys(range(5), 0))
    leads = []
    for push in course.order[:140]:
        counts[push.worker] += 1
        leads.append(max(counts.values()) - min(counts.values()))
    assert max(leads) == max_lead + 1
    free = simulate(gamma(5, slow={3: 3.0}), PushRules(num_updates=150, overlap=overlap, push_s=0.2))
    assert course.seconds > free.seconds


def test_no_lead_at_all_is_synchronous() -> None:
    course = simulate(gamma(5), PushRules(num_updates=100, max_lead=0))
    assert [push.read_version for push in course.order] == [5 * (update // 5) for update in range(100)]
    assert course.speedup == pytest.approx(1.0)


@pytest.mark.parametrize(("push_s", "seconds"), [(0.0, 100), (0.5, 100.5), (2.0, 201)])
def test_overlap_adds_one_delay_and_hides_the_push(push_s: float, seconds: float) -> None:
    rules = PushRules(num_updates=100, overlap=True, push_s=push_s)
    course = simulate(gamma(1, cv=0), rules)
    assert [push.delay for push in course.order] == [0] + [1] * 99
    assert course.seconds == pytest.approx(seconds)


def test_synchronous_time() -> None:
    times = RecordedTimes(seconds=((1.0, 2.0), (4.0, 1.0, 1.0)))
    course = simulate(times, PushRules(num_updates=5, push_s=0.5))
    # Rounds of (1, 4), (2, 1) and a last one of worker 0 alone.
    assert course.synchronous_s == pytest.approx(4.5 + 2.5 + 1.5)


def test_fixed_delay() -> None:
    assert fixed_delay(4, 0) == tuple(OrderedPush(t, 0, t, t) for t in range(4))
    order = fixed_delay(10, 3)
    assert [push.read_version for push in order] == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
    equal_workers = simulate(gamma(4, cv=0), PushRules(num_updates=10))
    assert equal_workers.order == order


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_updates": 0},
        {"pushes_per_update": 0},
        {"max_delay": -1},
        {"max_lead": -1},
        {"push_s": -0.1},
        {"push_s": float("inf")},
    ],
)
def test_rules_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"Invalid {next(iter(wrong)).removeprefix('num_')} value"):
        PushRules(**{"num_updates": 5, **wrong})  # type: ignore[arg-type]
