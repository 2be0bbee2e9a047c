"""When rounds end: by hand, and the clock of a real exchange against times that are known beforehand."""

from collections.abc import Sequence
from math import inf

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.core.coding.build import build_scheme
from orchestrator.core.coding.scheme import Scheme
from orchestrator.core.coding.waiting import RoundClock, RoundEnd, WaitRule, round_end
from orchestrator.core.errors import UndecodableError

FIRST = WaitRule(kind="first")
RULES = [
    FIRST,
    *(WaitRule(kind="deadline", mu=mu, wait=wait) for mu in (0.0, 0.3, 1.0, 5.0) for wait in ("all", "min")),
]
SCHEMES: dict[str, dict[str, int | str]] = {
    "uncoded": {},
    "ignore": {"stragglers": 2},
    "backup": {"backups": 1},
    "fractional": {"stragglers": 1},
    "cyclic": {"stragglers": 2},
    "approximate": {"stragglers": 3, "replicas": 2, "placement": "cyclic"},
    "stochastic": {"stragglers": 2, "replicas": 2},
    "sr_sgc": {"burst": 1, "window": 2, "max_stragglers": 3},
    "m_sgc": {"burst": 1, "window": 2, "max_stragglers": 6},
}


def begun(name: str, **parameters: int | str) -> Scheme:
    scheme = build_scheme(name, 6, **parameters)
    scheme.begin(0, has_new_job=True)
    return scheme


def ended(times_s: Sequence[float], scheme: Scheme, rule: WaitRule) -> tuple[float, list[int], bool]:
    end = round_end(np.array(times_s, dtype=np.float64), scheme, rule)
    return end.duration_s, np.flatnonzero(end.arrived).tolist(), end.waited_out


def clocked(times_s: NDArray[np.float64], scheme: Scheme, rule: WaitRule) -> RoundEnd:
    """What a clock says where it is asked after all arrivals of a moment and when it wants to be."""
    clock = RoundClock(scheme, rule)
    if clock.closes(0.0):
        return RoundEnd(duration_s=0.0, arrived=clock.workers, waited_out=clock.waited_out)
    waiting = sorted({*times_s.tolist()})
    while True:
        check_s = clock.next_check_s()
        now_s = min(waiting[:1] + ([] if check_s is None else [check_s]))
        if waiting and waiting[0] == now_s:
            waiting.pop(0)
            for worker in np.flatnonzero(times_s == now_s).tolist():
                clock.arrived(worker, now_s)
        if clock.closes(now_s):
            return RoundEnd(duration_s=now_s, arrived=clock.workers, waited_out=clock.waited_out)


def test_the_first_moment_at_which_the_scheme_can_close() -> None:
    times_s = [3.0, 1.0, 2.0, 9.0, 5.0, 4.0]
    assert ended(times_s, begun("cyclic", stragglers=2), FIRST) == (4.0, [0, 1, 2, 5], False)
    assert ended(times_s, begun("fractional", stragglers=1), FIRST) == (3.0, [0, 1, 2], False)
    assert ended(times_s, begun("uncoded"), FIRST) == (9.0, [0, 1, 2, 3, 4, 5], False)


def test_equal_arrivals_are_all_used() -> None:
    times_s = [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    assert ended(times_s, begun("cyclic", stragglers=2), FIRST) == (2.0, [0, 1, 2, 3, 4, 5], False)


def test_a_scheme_that_bears_any_stragglers_still_waits_for_the_first() -> None:
    scheme = begun("m_sgc", burst=1, window=2, max_stragglers=6)
    assert ended([3.0, 2.0, 4.0, 4.0, 4.0, 4.0], scheme, FIRST) == (2.0, [1], False)


def test_a_deadline_that_leaves_few_enough_behind() -> None:
    times_s = [1.0, 1.5, 2.0, 1.2, 2.5, 7.0]
    for wait in ("all", "min"):
        rule = WaitRule(kind="deadline", mu=1.0, wait=wait)
        assert ended(times_s, begun("cyclic", stragglers=2), rule) == (2.0, [0, 1, 2, 3], False)


def test_a_deadline_after_the_last_arrival_ends_with_it() -> None:
    rule = WaitRule(kind="deadline", mu=4.0)
    assert ended([1.0, 1.5, 2.0, 1.2, 2.5, 3.0], begun("uncoded"), rule) == (3.0, [0, 1, 2, 3, 4, 5], False)


def test_a_deadline_that_is_waited_out() -> None:
    times_s = [1.0, 1.5, 3.0, 4.0, 5.0, 7.0]
    scheme = begun("cyclic", stragglers=2)
    assert ended(times_s, scheme, WaitRule(kind="deadline", mu=1.0, wait="min")) == (4.0, [0, 1, 2, 3], True)
    assert ended(times_s, scheme, WaitRule(kind="deadline", mu=1.0, wait="all")) == (7.0, [0, 1, 2, 3, 4, 5], True)


def test_lost_workers_are_not_waited_for() -> None:
    times_s = [1.0, 1.5, 3.0, 4.0, inf, inf]
    scheme = begun("cyclic", stragglers=2)
    for rule, expected in (
        (FIRST, (4.0, [0, 1, 2, 3], False)),
        (WaitRule(kind="deadline", mu=1.0, wait="all"), (4.0, [0, 1, 2, 3], True)),
        (WaitRule(kind="deadline", mu=9.0), (4.0, [0, 1, 2, 3], False)),
    ):
        assert ended(times_s, scheme, rule) == expected


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_too_many_lost_workers(rule: WaitRule) -> None:
    times_s = np.array([1.0, 1.5, 3.0, inf, inf, inf])
    message = "The round cannot close: 3 of 6 workers will never send a message"
    with pytest.raises(UndecodableError, match=message):
        round_end(times_s, begun("cyclic", stragglers=2), rule)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_all_workers_lost(rule: WaitRule) -> None:
    scheme = begun("m_sgc", burst=1, window=2, max_stragglers=6)
    with pytest.raises(UndecodableError, match="6 of 6 workers"):
        round_end(np.full(6, inf), scheme, rule)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_round_without_work_takes_no_time(rule: WaitRule) -> None:
    scheme = build_scheme("fractional", 6, stragglers=1)
    scheme.begin(3, has_new_job=False)
    assert ended([5.0, inf, 3.0, 3.0, 3.0, 3.0], scheme, rule) == (0.0, [0, 1, 2, 3, 4, 5], False)
    assert RoundClock(scheme, rule).closes(0.0)


def test_idle_workers_define_no_deadline() -> None:
    """Workers 0 and 1 make up for job 0, which needs 4 of 6; nobody else has anything to compute."""
    scheme = build_scheme("sr_sgc", 6, burst=1, window=2, max_stragglers=4)
    scheme.begin(0, has_new_job=True)
    scheme.close(np.array([False, False, False, False, True, True]))
    scheme.begin(1, has_new_job=False)
    assert np.flatnonzero(scheme.loads()).tolist() == [0, 1]
    rule = WaitRule(kind="deadline", mu=1.0)
    assert ended([4.0, 7.0, 1.0, 1.0, inf, 99.0], scheme, rule) == (7.0, [0, 1, 2, 3, 4, 5], False)
    clock = RoundClock(scheme, rule)
    assert np.flatnonzero(clock.workers).tolist() == [2, 3, 4, 5]
    assert clock.next_check_s() is None
    clock.arrived(0, 4.0)
    assert clock.next_check_s() == 8.0


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", SCHEMES)
def test_the_clock_agrees_with_known_times(name: str, rule: WaitRule) -> None:
    rng = np.random.default_rng(1)
    scheme = build_scheme(name, 6, **SCHEMES[name])
    for round_index in range(60):
        # Halves of seconds, so that arrivals coincide with each other and with deadlines.
        times_s = rng.integers(2, 12, 6) / 2
        scheme.begin(round_index, has_new_job=round_index < 55)
        expected = round_end(times_s, scheme, rule)
        found = clocked(times_s, scheme, rule)
        assert found.duration_s == expected.duration_s
        assert found.arrived.tolist() == expected.arrived.tolist()
        assert found.waited_out == expected.waited_out
        scheme.close(found.arrived)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_round_ends_no_later_than_any_later_moment_that_would_do(rule: WaitRule) -> None:
    """The bisection finds what trying one moment after the other finds."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        scheme = begun("cyclic", stragglers=2)
        times_s = rng.uniform(1, 4, 6)
        end = round_end(times_s, scheme, rule)
        assert end.arrived.tolist() == (times_s <= end.duration_s).tolist()
        earlier = np.sort(times_s[times_s < end.duration_s])
        if rule.kind == "first" or (end.waited_out and rule.wait == "min"):
            assert not any(scheme.may_close(times_s <= moment) for moment in earlier)


def test_a_late_check_credits_whoever_has_arrived() -> None:
    clock = RoundClock(begun("cyclic", stragglers=2), WaitRule(kind="deadline", mu=1.0, wait="all"))
    for worker, elapsed_s in enumerate((1.0, 1.5, 2.0, 1.2, 2.5)):
        clock.arrived(worker, elapsed_s)
    assert clock.next_check_s() == 2.0
    assert clock.closes(2.6)
    assert not clock.waited_out
    assert np.flatnonzero(clock.workers).tolist() == [0, 1, 2, 3, 4]


def test_a_late_check_does_not_undo_a_deadline_that_was_missed() -> None:
    clock = RoundClock(begun("cyclic", stragglers=2), WaitRule(kind="deadline", mu=1.0, wait="all"))
    for worker, elapsed_s in enumerate((1.0, 1.5, 2.1, 2.2, 2.3)):
        clock.arrived(worker, elapsed_s)
    assert not clock.closes(2.4)
    assert clock.waited_out
    assert clock.next_check_s() is None
    clock.arrived(5, 9.0)
    assert clock.closes(9.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "last"}, r"Invalid kind value: 'last'\. Must be 'first' or 'deadline'\."),
        ({"kind": "deadline", "mu": -0.1}, r"Invalid mu value: -0\.1\. Must be a finite number of at least 0\."),
        ({"kind": "deadline", "mu": inf}, r"Invalid mu value: inf\."),
        ({"kind": "deadline", "wait": "most"}, r"Invalid wait value: 'most'\. Must be 'all' or 'min'\."),
    ],
)
def test_rules_are_checked(values: dict[str, str | float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WaitRule(**values)
