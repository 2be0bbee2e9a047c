"""Total times over the reference trace: 256 workers, 480 jobs, mu = 1, known from an independent program."""

from collections.abc import Callable
from functools import cache
from time import process_time

import pytest
from independent_rules import EverybodySrSgc, FullLoadMSgc, StrictSrSgc

from orchestrator.core.coding.build import build_scheme
from orchestrator.core.coding.scheme import Scheme
from orchestrator.core.coding.waiting import WaitRule
from orchestrator.simulate.stragglers.reference import reference
from orchestrator.simulate.stragglers.replay import Replay, replay
from orchestrator.simulate.stragglers.trace import Trace

ALL, MIN = (WaitRule(kind="deadline", mu=1.0, wait=wait) for wait in ("all", "min"))
FIRST = WaitRule(kind="first")
TO_THE_LAST_DIGIT = {"rel": 1e-6, "abs": 0}


@cache
def trace(rare: float = 0.0, num_rounds: int = 500) -> Trace:
    return reference(num_rounds, 256, seed=1, rare=rare)


def uncoded() -> Scheme:
    return build_scheme("uncoded", 256)


def gc(stragglers: int = 15) -> Scheme:
    return build_scheme("cyclic", 256, stragglers=stragglers)


def fractional(copies: int) -> Scheme:
    return build_scheme("fractional", 256, stragglers=copies - 1)


def sr_sgc() -> Scheme:
    return EverybodySrSgc(256, burst=2, window=3, max_stragglers=23)


def strict_sr_sgc() -> Scheme:
    return StrictSrSgc(256, burst=2, window=3, max_stragglers=23)


def m_sgc(max_stragglers: int = 27) -> Scheme:
    return FullLoadMSgc(256, burst=1, window=2, max_stragglers=max_stragglers)


def run(scheme: Scheme, rule: WaitRule, *, rare: float = 0.0, num_jobs: int = 480, carry_over: bool = False) -> Replay:
    found = replay(trace(rare), scheme, rule, num_jobs=num_jobs, num_models=4, carry_over=carry_over)
    assert found is not None
    assert found.num_undecoded == 0
    return found


@pytest.mark.parametrize(
    ("make", "rule", "total_s", "num_waited_out"),
    [
        (uncoded, ALL, 914.0973, 480),
        (uncoded, MIN, 914.0973, 480),
        (gc, ALL, 677.6724, 2),
        (gc, MIN, 675.8533, 2),
        (sr_sgc, ALL, 665.0633, 22),
        (strict_sr_sgc, ALL, 665.0633, 22),
        (strict_sr_sgc, MIN, 661.3201, 27),
        (m_sgc, ALL, 710.0906, 202),
        (m_sgc, MIN, 641.4147, 249),
        (gc, FIRST, 540.9773, 0),
    ],
)
def test_totals(make: Callable[[], Scheme], rule: WaitRule, total_s: float, num_waited_out: int) -> None:
    found = run(make(), rule)
    assert found.total_s == pytest.approx(total_s, **TO_THE_LAST_DIGIT)
    assert found.num_waited_out == num_waited_out


@pytest.mark.parametrize(("copies", "total_s"), [(4, 350.1335), (8, 328.2071), (16, 347.3151)])
def test_totals_of_fractional_repetition(copies: int, total_s: float) -> None:
    assert run(fractional(copies), FIRST).total_s == pytest.approx(total_s, **TO_THE_LAST_DIGIT)


@pytest.mark.parametrize(
    ("make", "rule", "total_s"),
    [
        (uncoded, ALL, 1101.7650),
        (gc, ALL, 677.6724),
        (sr_sgc, ALL, 665.0633),
        (m_sgc, ALL, 785.0491),
        (gc, FIRST, 541.2001),
    ],
)
def test_totals_with_rare_events(make: Callable[[], Scheme], rule: WaitRule, total_s: float) -> None:
    assert run(make(), rule, rare=1e-4).total_s == pytest.approx(total_s, **TO_THE_LAST_DIGIT)


@pytest.mark.parametrize(
    ("make", "rule", "total_s"),
    [
        (gc, ALL, 677.6866),
        (gc, FIRST, 596.8988),
        (lambda: fractional(4), FIRST, 455.1593),
        (lambda: fractional(8), FIRST, 433.9047),
        (lambda: fractional(16), FIRST, 451.9460),
        (m_sgc, ALL, 758.0965),
        (m_sgc, MIN, 716.2788),
    ],
)
def test_totals_where_lateness_carries_over(make: Callable[[], Scheme], rule: WaitRule, total_s: float) -> None:
    assert run(make(), rule, carry_over=True).total_s == pytest.approx(total_s, **TO_THE_LAST_DIGIT)


@pytest.mark.parametrize(
    ("make", "rule", "candidates", "best", "total_s"),
    [
        (gc, ALL, range(8, 20), 13, 111.9413),
        (gc, MIN, range(4, 16), 9, 105.9691),
        (m_sgc, ALL, range(24, 29), 26, 119.2165),
        (m_sgc, MIN, range(23, 28), 25, 106.1132),
    ],
)
def test_the_choice_for_80_jobs(
    make: Callable[[int], Scheme], rule: WaitRule, candidates: range, best: int, total_s: float
) -> None:
    totals_s = {candidate: run(make(candidate), rule, num_jobs=80).total_s for candidate in candidates}
    assert min(totals_s, key=totals_s.__getitem__) == best
    assert totals_s[best] == pytest.approx(total_s, **TO_THE_LAST_DIGIT)


def test_what_sequential_schemes_take_by_our_own_rules() -> None:
    """Less, as workers without a message are not waited for and rounds with fewer messages are shorter."""
    sr = build_scheme("sr_sgc", 256, burst=2, window=3, max_stragglers=23)
    m = build_scheme("m_sgc", 256, burst=1, window=2, max_stragglers=27)
    assert run(sr, ALL).total_s == pytest.approx(664.4468, **TO_THE_LAST_DIGIT)
    assert run(m, MIN).total_s == pytest.approx(641.3898, **TO_THE_LAST_DIGIT)


def test_what_is_reported() -> None:
    found = run(sr_sgc(), ALL)
    assert len(found.round_s) == 482
    assert found.max_in_flight == 3
    assert found.num_skipped == 1
    assert found.fastest_round_s == found.round_s[found.round_s > 0].min()
    assert 0 < found.straggler_share < 0.05
    assert found.num_survivor_sets is None


def test_half_a_thousand_jobs_take_well_under_a_second() -> None:
    trace()
    start = process_time()
    run(m_sgc(), MIN)
    assert process_time() - start < 1  # 0.1 s on an idle core
