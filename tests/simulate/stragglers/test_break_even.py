"""When coding pays: 64 workers, slow in bursts by a factor, with a share of each step that does not shrink.

Expected are the times relative to uncoded of an independent program on its own random numbers.
"""

from functools import cache

import pytest

from orchestrator.core.coding.waiting import WaitRule
from orchestrator.simulate.stragglers.build import build, read_setting
from orchestrator.simulate.stragglers.generators import gilbert_elliott
from orchestrator.simulate.stragglers.search import FIRST, Situation

ALIKE = 0.1
M_SGC_RULE = WaitRule(kind="deadline", mu=0.5, wait="min")


@cache
def relative(fixed_s: float, factor: float, setting: str, rule: WaitRule = FIRST) -> float:
    trace = gilbert_elliott(140, 64, seed=0, factor=factor, fixed_s=fixed_s)
    situation = Situation(trace=trace, num_jobs=120, num_models=20)
    uncoded, coded = (
        situation.replay(build(read_setting(name), 64), rule) for name, rule in (("uncoded", FIRST), (setting, rule))
    )
    assert uncoded is not None
    assert coded is not None
    return coded.total_s / uncoded.total_s


@pytest.mark.parametrize(
    ("fixed_s", "factor", "ignore", "two_copies", "four_copies"),
    [
        (0, 1.5, 0.69, 1.41, 2.62),
        (0, 2, 0.52, 1.10, 1.98),
        (0, 4, 0.26, 0.63, 1.00),
        (0, 10, 0.11, 0.34, 0.40),
        (2, 2, 0.75, 1.05, 1.51),
        (2, 4, 0.50, 0.75, 1.00),
        (2, 10, 0.25, 0.45, 0.50),
        (20, 2, 0.95, 1.01, 1.09),
        (20, 4, 0.87, 0.94, 1.00),
        (20, 10, 0.69, 0.78, 0.80),
    ],
)
def test_single_rounds(fixed_s: float, factor: float, ignore: float, two_copies: float, four_copies: float) -> None:
    found = [
        relative(fixed_s, factor, setting)
        for setting in ("ignore:stragglers=6", "fractional:stragglers=1", "fractional:stragglers=3")
    ]
    assert found == pytest.approx([ignore, two_copies, four_copies], abs=ALIKE)


@pytest.mark.parametrize(
    ("fixed_s", "factor", "stragglers", "expected"),
    [(0, 1.5, 1, 1.86), (0, 2, 1, 1.80), (0, 4, 1, 1.70), (0, 10, 7, 0.85), (2, 10, 7, 0.88), (20, 4, 1, 1.12)],
)
def test_the_cyclic_code(fixed_s: float, factor: float, stragglers: int, expected: float) -> None:
    assert relative(fixed_s, factor, f"cyclic:stragglers={stragglers}") == pytest.approx(expected, abs=ALIKE)


@pytest.mark.parametrize(
    ("factor", "burst", "window", "max_stragglers", "expected"),
    [(1.5, 1, 9, 16, 1.15), (2, 1, 9, 24, 1.04), (4, 1, 5, 16, 0.83), (10, 2, 3, 16, 0.54)],
)
def test_m_sgc(factor: float, burst: int, window: int, max_stragglers: int, expected: float) -> None:
    setting = f"m_sgc:burst={burst},window={window},max_stragglers={max_stragglers}"
    assert relative(0, factor, setting, M_SGC_RULE) == pytest.approx(expected, abs=ALIKE)
