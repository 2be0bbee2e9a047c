"""Advice against every scheme replayed in plain loops, over workers and data that are known."""

from collections.abc import Callable

import numpy as np
import pytest
from made_records import Made, bursty, one_slow_worker, record_of, slow_data
from plain_replay import exhaustive

from orchestrator.core.coding.waiting import WaitRule
from orchestrator.core.errors import UsageError
from orchestrator.simulate.stragglers.advice import Advice, advised, spec_line
from orchestrator.simulate.stragglers.build import build
from orchestrator.simulate.stragglers.generators import gilbert_elliott, gpu_fail_slow
from orchestrator.simulate.stragglers.recorded import Record, estimate
from orchestrator.simulate.stragglers.replay import replay
from orchestrator.simulate.stragglers.search import Situation
from orchestrator.simulate.stragglers.trace import Trace

LOSSY = ("ignore", "backup")


def advice_on(trace: Trace, *, num_models: int = 1, carry_over: bool = True, allow_lossy: bool = False) -> Advice:
    num_jobs = trace.num_rounds - num_models + 1
    situation = Situation(trace=trace, num_jobs=num_jobs, num_models=num_models, carry_over=carry_over)
    return advised(situation, allow_lossy=allow_lossy)


def of_record(record: Record, **options: bool) -> Advice:
    return advice_on(estimate(record).trace, **options)


def best_by_trying_all(made: Made, *, carry_over: bool, allow_lossy: bool) -> tuple[str, float]:
    """The setting to recommend and its total time, by the rule: the fastest, if it saves more than 5 %."""
    totals_s = exhaustive(made.factors.tolist(), made.work.tolist(), fixed_s=0.0, carry_over=carry_over)
    allowed = {name: t for name, t in totals_s.items() if allow_lossy or not name.startswith(LOSSY)}
    best = min(allowed, key=allowed.__getitem__)
    name = best if allowed[best] < 0.95 * totals_s["uncoded"] else "uncoded"
    return name, totals_s[name]


@pytest.mark.parametrize("make", [bursty, one_slow_worker, slow_data])
@pytest.mark.parametrize("carry_over", [False, True])
@pytest.mark.parametrize("allow_lossy", [False, True])
def test_the_recommended_scheme_is_that_of_trying_all(
    make: Callable[[], Made], carry_over: bool, allow_lossy: bool
) -> None:
    made = make()
    expected, total_s = best_by_trying_all(made, carry_over=carry_over, allow_lossy=allow_lossy)
    found = of_record(made.record, carry_over=carry_over, allow_lossy=allow_lossy).recommended
    assert str(found.setting) == expected
    assert found.total_s == pytest.approx(total_s, rel=0.02)


@pytest.mark.parametrize(
    ("make", "recommended"),
    [(bursty, "fractional:stragglers=1"), (one_slow_worker, "fractional:stragglers=1"), (slow_data, "uncoded")],
)
def test_what_the_three_records_call_for(make: Callable[[], Made], recommended: str) -> None:
    assert str(of_record(make().record).recommended.setting) == recommended


def test_taking_slow_data_for_slow_workers_would_mislead() -> None:
    made = slow_data()
    seconds = made.factors * made.work
    blind = record_of(seconds, np.full_like(seconds, np.nan))
    assert of_record(blind, carry_over=False).recommended.setting.scheme == "fractional"
    assert of_record(made.record, carry_over=False).recommended.setting.scheme == "uncoded"


@pytest.mark.parametrize("seed", range(5))
def test_gpus_that_are_slow_for_long_call_for_no_coding(seed: int) -> None:
    trace = gpu_fail_slow(100, 16, seed=seed, share=0.2)
    assert trace.uncoded_s().max() > 1.1
    found = advice_on(trace)
    assert spec_line(found.recommended) == "exchange: {name: all_reduce}"
    assert max(choice.gain for choice in found.choices if choice.is_exact) <= 0.0


def test_choices_are_the_fastest_of_each_scheme_in_order() -> None:
    found = of_record(bursty().record)
    assert {choice.setting.scheme for choice in found.choices} == {
        "uncoded",
        "fractional",
        "cyclic",
        "ignore",
        "backup",
    }
    totals_s = [choice.total_s for choice in found.choices]
    assert totals_s == sorted(totals_s)
    by_scheme = {choice.setting.scheme: choice for choice in found.choices}
    uncoded = by_scheme["uncoded"]
    assert uncoded.gain == 0
    assert uncoded.total_s == pytest.approx(bursty().factors.max(axis=1).sum())
    fractional = by_scheme["fractional"]
    assert fractional.gain == pytest.approx(1 - fractional.total_s / uncoded.total_s)
    assert fractional.load == 2 / 8
    assert [by_scheme[scheme].is_exact for scheme in ("uncoded", "fractional", "cyclic")] == [True] * 3
    assert [by_scheme[scheme].is_exact for scheme in LOSSY] == [False] * 2


def test_a_gain_of_less_than_a_twentieth_is_none() -> None:
    """Two copies are half as fast, so with a worker that is 2 k times as slow they save 1 - 1 / k."""
    for factor, recommended in ((2.09, "uncoded"), (2.12, "fractional")):
        factors = np.ones((20, 2))
        factors[:, 0] = factor
        found = of_record(record_of(factors, np.ones((20, 2))), carry_over=False).recommended
        assert found.setting.scheme == recommended


def test_sequential_schemes_only_where_several_models_share_the_workers() -> None:
    trace = gilbert_elliott(26, 4, seed=3, factor=4.0, fixed_s=0.2)
    alone, shared = advice_on(trace), advice_on(trace, num_models=3)
    assert not {choice.setting.scheme for choice in alone.choices} & {"sr_sgc", "m_sgc"}
    found = {choice.setting.scheme: choice for choice in shared.choices}
    assert {"sr_sgc", "m_sgc"} <= set(found)
    rule = WaitRule(kind="deadline", mu=1.0, wait="min")
    m_sgc = found["m_sgc"]
    replayed = replay(trace, build(m_sgc.setting, 4), rule, num_jobs=24, num_models=3, carry_over=True)
    assert replayed is not None
    assert (m_sgc.rule, m_sgc.total_s) == (rule, replayed.total_s)
    assert spec_line(m_sgc) == (
        "exchange: {name: coded, scheme: m_sgc, "
        + ", ".join(f"{key}: {value}" for key, value in m_sgc.setting.parameters.items())
        + ", close: deadline, mu: 1.0, wait: min}"
    )


def test_lines_of_a_spec() -> None:
    lines = {choice.setting.scheme: spec_line(choice) for choice in of_record(bursty().record).choices}
    assert lines["uncoded"] == "exchange: {name: all_reduce}"
    assert lines["fractional"] == "exchange: {name: coded, scheme: fractional, stragglers: 1}"
    assert lines["backup"] == "exchange: {name: coded, scheme: backup, backups: 1}"


@pytest.mark.parametrize("num_workers", [1, 2, 3, 20])
def test_any_number_of_workers(num_workers: int) -> None:
    found = advice_on(gilbert_elliott(24, num_workers, seed=0), num_models=2, allow_lossy=True)
    schemes = {choice.setting.scheme for choice in found.choices}
    assert ("cyclic" in schemes) == (2 <= num_workers <= 16)
    assert "uncoded" in schemes
    if num_workers == 1:
        assert schemes == {"uncoded", "m_sgc"}


@pytest.mark.parametrize(("num_models", "least"), [(1, 20), (2, 21)])
def test_too_few_steps(num_models: int, least: int) -> None:
    message = f"Advice .* needs at least {least} recorded steps; there are {least - 1}"
    with pytest.raises(UsageError, match=message):
        advice_on(gilbert_elliott(least - 1, 4, seed=0), num_models=num_models)
    assert advice_on(gilbert_elliott(least, 4, seed=0), num_models=num_models).choices
