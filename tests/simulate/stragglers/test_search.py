"""The search finds what trying every setting finds, in the spaces that it says."""

import numpy as np
import pytest

from orchestrator.core.coding.sr_sgc import num_code_stragglers
from orchestrator.core.coding.waiting import WaitRule
from orchestrator.core.errors import UsageError
from orchestrator.simulate.stragglers.build import Setting, build, read_setting
from orchestrator.simulate.stragglers.generators import gilbert_elliott
from orchestrator.simulate.stragglers.reference import reference
from orchestrator.simulate.stragglers.search import (
    EXACT,
    FIRST,
    SEQUENTIAL,
    SPACES,
    Situation,
    fastest,
    legal_settings,
    rule_of,
)

SITUATION = Situation(trace=gilbert_elliott(43, 8, seed=3, factor=12.0), num_jobs=40, num_models=4)


def total_s(setting: Setting, situation: Situation, rule: WaitRule) -> float:
    found = situation.replay(build(setting, situation.trace.num_workers), rule)
    assert found is not None
    return found.total_s


def settings(scheme: str, num_workers: int, max_delay: int = 0) -> list[dict[str, object]]:
    return [dict(setting.parameters) for setting in legal_settings(scheme, num_workers, max_delay=max_delay)]


@pytest.mark.parametrize("scheme", SPACES)
def test_the_fastest_is_that_of_all(scheme: str) -> None:
    possible = list(legal_settings(scheme, 8, max_delay=3))[::6]
    totals_s = [total_s(setting, SITUATION, rule_of(scheme)) for setting in possible]
    assert fastest(possible, SITUATION, rule_of(scheme)) == possible[int(np.argmin(totals_s))]


@pytest.mark.parametrize("scheme", SPACES)
@pytest.mark.parametrize("num_workers", [1, 2, 7, 12])
def test_every_setting_of_a_space_is_legal(scheme: str, num_workers: int) -> None:
    for setting in legal_settings(scheme, num_workers, max_delay=3):
        assert build(setting, num_workers).delay <= 3


def test_every_lambda_of_few_workers_and_the_largest_of_each_code_of_many() -> None:
    few = settings("sr_sgc", 16, max_delay=2)
    assert len(few) == 16 * (79 + 39)
    assert {setting["max_stragglers"] for setting in few} == set(range(1, 17))
    largest = {}
    for burst in (1, 2):
        for window in range(burst + 1, 81, burst):
            for most in range(1, 21):
                largest[burst, window, num_code_stragglers(burst, window, most)] = most
    many = settings("sr_sgc", 20, max_delay=2)
    assert {(p["burst"], p["window"], p["max_stragglers"]) for p in many} == {
        (burst, window, most) for (burst, window, _), most in largest.items()
    }
    assert len(many) == len(largest)


def test_the_spaces() -> None:
    assert settings("uncoded", 6) == [{}]
    assert settings("fractional", 6) == [{"stragglers": s} for s in (0, 1, 2, 5)]
    assert settings("cyclic", 4) == [{"stragglers": s} for s in range(4)]
    assert settings("ignore", 32) == [{"stragglers": s} for s in (1, 2, 3)]
    assert settings("backup", 8) == [{"backups": 1}]
    assert settings("ignore", 1) == []
    assert settings("m_sgc", 4) == settings("sr_sgc", 4) == []
    shapes = {(p["burst"], p["window"]) for p in settings("m_sgc", 4, max_delay=3)}
    assert shapes == {(1, 2), (1, 3), (1, 4), (2, 3)}
    assert len(settings("m_sgc", 256, max_delay=19)) == 25_600
    assert len(settings("stochastic", 8)) == 3
    assert len(settings("approximate", 8)) == 6


def test_delays_of_the_spaces() -> None:
    for scheme in EXACT:
        delays = {build(setting, 5).delay for setting in legal_settings(scheme, 5, max_delay=3)}
        assert delays == ({1, 2, 3} if scheme in SEQUENTIAL else {0})


@pytest.mark.parametrize(("wait", "stragglers"), [("all", 13), ("min", 9)])
def test_the_choice_of_the_cyclic_code_over_the_reference_trace(wait: str, stragglers: int) -> None:
    rule = WaitRule(kind="deadline", wait=wait)  # type: ignore[arg-type]
    situation = Situation(trace=reference(100, 256), num_jobs=80)
    assert fastest(legal_settings("cyclic", 256, max_delay=0), situation, rule) == Setting(
        "cyclic", {"stragglers": stragglers}
    )


def test_without_a_setting_there_is_no_fastest() -> None:
    assert fastest([], SITUATION, FIRST) is None


def test_a_situation_is_never_lengthened() -> None:
    assert SITUATION.shortened(30).num_jobs == 30
    assert SITUATION.shortened(30).trace is SITUATION.trace
    assert SITUATION.shortened(50).num_jobs == 40


@pytest.mark.parametrize("text", ["uncoded", "approximate:stragglers=1,replicas=2,placement=cyclic"])
def test_settings_are_read_as_they_are_shown(text: str) -> None:
    assert str(read_setting(text)) == text
    assert build(read_setting(text), 4).num_workers == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repetition", "repetition: there is no scheme repetition; legal are uncoded, ignore,"),
        ("cyclic:stragglers", "cyclic:stragglers: must be NAME or NAME:KEY=VALUE"),
        ("cyclic", "cyclic: Missing parameter of scheme cyclic: 'stragglers'."),
        ("cyclic:stragglers=4", "cyclic:stragglers=4: Invalid stragglers value: 4. Must be an integer from 0 to 3."),
        ("cyclic:stragglers=-1", "Invalid stragglers value: -1."),
        ("cyclic:stragglers=two", "Invalid stragglers value: 'two'."),
        ("cyclic:copies=2", "Invalid parameter of scheme cyclic: 'copies'."),
    ],
)
def test_what_is_no_setting(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(read_setting(text), 4)
    assert message in str(caught.value)
