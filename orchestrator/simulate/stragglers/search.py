"""Which parameters of a scheme are fastest with given workers: every legal setting is replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from orchestrator.core.coding.scheme import Scheme
from orchestrator.core.coding.sr_sgc import num_code_stragglers
from orchestrator.core.coding.waiting import WaitRule
from orchestrator.simulate.stragglers.build import Setting, build
from orchestrator.simulate.stragglers.replay import Replay, replay
from orchestrator.simulate.stragglers.trace import Trace

EXACT = ("uncoded", "fractional", "cyclic", "sr_sgc", "m_sgc")
"""Schemes whose sum is that of the whole batch."""
MAX_LOST_SHARE = 0.1
"""Largest share of the workers that is left out under schemes that are not exact, as more of them is always faster."""
MAX_REPLICAS = 4
"""Most copies of a chunk under schemes that are not exact."""
MAX_WINDOW = 80
"""Largest window W of SR-SGC."""
MAX_FULL_WORKERS = 16
"""Up to so many workers every lambda of SR-SGC is tried, beyond only the largest of those that have the same code."""
SEARCH_JOBS = 80
"""Jobs that are enough to choose among the thousands of settings of a sequential scheme."""
SEQUENTIAL = frozenset({"sr_sgc", "m_sgc"})
"""Schemes that decode jobs rounds after their own."""
FIRST = WaitRule(kind="first")
DEADLINE = WaitRule(kind="deadline", mu=1.0, wait="min")


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What settings are compared under: everything about a replay but the scheme."""

    trace: Trace
    num_jobs: int
    num_models: int = 1
    """Models that share the workers; schemes may decode a job up to one round less than this late."""
    carry_over: bool = False
    """See ``replay``."""

    def shortened(self, num_jobs: int) -> Situation:
        """The same with fewer jobs, or as it is where it has no more."""
        return replace(self, num_jobs=min(num_jobs, self.num_jobs))

    def replay(self, scheme: Scheme, rule: WaitRule, *, decodes: bool = False, limit_s: float = inf) -> Replay | None:
        """See ``replay``."""
        return replay(
            self.trace,
            scheme,
            rule,
            num_jobs=self.num_jobs,
            num_models=self.num_models,
            carry_over=self.carry_over,
            decodes=decodes,
            limit_s=limit_s,
        )


def rule_of(scheme: str) -> WaitRule:
    """The rule under which rounds of a scheme are best closed.

    Sequential schemes gain from the messages that come between the first moment at which a round may close and the
    deadline: they spare them repeats.
    """
    return DEADLINE if scheme in SEQUENTIAL else FIRST


def fastest(settings: Iterable[Setting], situation: Situation, rule: WaitRule) -> Setting | None:
    """The setting with the least total time, the first one of equals; None where there is no setting."""
    found, limit_s = None, inf
    for setting in settings:
        scheme = build(setting, situation.trace.num_workers)
        replayed = situation.replay(scheme, rule, limit_s=limit_s)
        if replayed is not None and replayed.total_s < limit_s:
            found, limit_s = setting, replayed.total_s
    return found


def legal_settings(scheme: str, num_workers: int, *, max_delay: int) -> Iterator[Setting]:
    """Every setting of a scheme that decodes no job more than ``max_delay`` rounds after its own.

    Of schemes that are not exact, those that leave out one worker, or ``MAX_LOST_SHARE`` of them at most. Of SR-SGC,
    windows up to ``MAX_WINDOW``; with more than ``MAX_FULL_WORKERS`` workers, of all lambda for which the code and so
    the load are the same only the largest, which admits the most stragglers.
    """
    return (Setting(scheme, parameters) for parameters in SPACES[scheme](num_workers, max_delay))


Parameters = Mapping[str, Any]


def _uncoded(num_workers: int, max_delay: int) -> Iterator[Parameters]:
    yield {}


def _cyclic(num_workers: int, max_delay: int) -> Iterator[Parameters]:
    for stragglers in range(num_workers):
        yield {"stragglers": stragglers}


def _fractional(num_workers: int, max_delay: int) -> Iterator[Parameters]:
    for replicas in range(1, num_workers + 1):
        if num_workers % replicas == 0:
            yield {"stragglers": replicas - 1}


def _num_lost(num_workers: int) -> range:
    """Workers that may be left out; none of fewer than two."""
    return range(1, min(max(1, int(MAX_LOST_SHARE * num_workers)), num_workers - 1) + 1)


def _ignore(num_workers: int, max_delay: int) -> Iterator[Parameters]:
    for stragglers in _num_lost(num_workers):
        yield {"stragglers": stragglers}


def _backup(num_workers: int, max_delay: int) -> Iterator[Parameters]:
    for backups in _num_lost(num_workers):
        yield {"backups": backups}


def _stochastic(num_workers: int, max_delay: int) -> Iterator[Parameters]:
    for stragglers in _num_lost(num_workers):
        for replicas in range(2, min(MAX_REPLICAS, num_workers) + 1):
            yield {"stragglers": stragglers, "replicas": replicas}


def _approximate(num_workers: int, max_delay: int) -> Iterator[Parameters]:
    for placement in ("fractional", "cyclic"):
        for parameters in _stochastic(num_workers, max_delay):
            yield {**parameters, "placement": placement}


def _sr_sgc(num_workers: int, max_delay: int) -> Iterator[Parameters]:
    if num_workers < 2:
        return
    for burst in range(1, max_delay + 1):
        for window in range(burst + 1, MAX_WINDOW + 1, burst):
            codes = [num_code_stragglers(burst, window, most) for most in range(num_workers + 1)]
            for most in range(1, num_workers + 1):
                is_largest = most == num_workers or codes[most] != codes[most + 1]
                if is_largest or num_workers <= MAX_FULL_WORKERS:
                    yield {"burst": burst, "window": window, "max_stragglers": most}


def _m_sgc(num_workers: int, max_delay: int) -> Iterator[Parameters]:
    for burst in range(1, max_delay + 1):
        for window in range(burst + 1, max_delay + 2 - burst + 1):
            for most in range(1, num_workers + 1):
                yield {"burst": burst, "window": window, "max_stragglers": most}


SPACES: Mapping[str, Callable[[int, int], Iterator[Parameters]]] = {
    "uncoded": _uncoded,
    "ignore": _ignore,
    "backup": _backup,
    "fractional": _fractional,
    "cyclic": _cyclic,
    "approximate": _approximate,
    "stochastic": _stochastic,
    "sr_sgc": _sr_sgc,
    "m_sgc": _m_sgc,
}
"""Legal parameters of each scheme by the numbers of workers and of rounds that a job may be late."""
