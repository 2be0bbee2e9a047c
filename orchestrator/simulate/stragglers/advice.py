"""Which exchange a job should have, by replaying what its workers have shown of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.core.coding.cyclic_code import MAX_EXHAUSTIVE_WORKERS
from orchestrator.core.coding.waiting import WaitRule
from orchestrator.core.errors import UsageError
from orchestrator.simulate.stragglers.build import Setting, build
from orchestrator.simulate.stragglers.search import (
    EXACT,
    SEARCH_JOBS,
    SEQUENTIAL,
    Situation,
    fastest,
    legal_settings,
    rule_of,
)

MIN_JOBS = 20
"""Updates without which there is no advice."""
MIN_GAIN = 0.05
"""A code is recommended only where it saves more than this share of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The fastest setting of a scheme."""

    setting: Setting
    rule: WaitRule
    is_exact: bool
    """Whether updates are those of the whole batch."""
    load: float
    """Share of a batch that each worker computes in a round."""
    delay: int
    """Rounds after its own by which a job is decoded."""
    total_s: float
    gain: float
    """Share of the uncoded time that it saves; negative where it takes longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What would have been fastest."""

    choices: tuple[Choice, ...]
    """The fastest first."""
    recommended: Choice
    """Uncoded unless something else saves more than ``MIN_GAIN``."""


def advised(situation: Situation, *, allow_lossy: bool) -> Advice:
    """Compare every scheme that comes into question.

    Args:
        situation: The workers, and what they are used for.
        allow_lossy: Also recommend schemes that leave out a part of the batch.

    Raises:
        UsageError: where there are fewer than ``MIN_JOBS`` jobs.
    """
    trace = situation.trace
    if situation.num_jobs < MIN_JOBS:
        raise UsageError(
            f"Advice for {situation.num_models} model{'s' * (situation.num_models > 1)} needs at least "
            f"{MIN_JOBS + situation.num_models - 1} recorded steps; there are {trace.num_rounds}."
        )
    schemes = _schemes(trace.num_workers, situation.num_models)
    settings = [setting for scheme in schemes if (setting := _fastest(scheme, situation)) is not None]
    totals_s = [_total_s(setting, situation) for setting in settings]
    choices = [
        _choice(setting, total_s, totals_s[0], trace.num_workers)
        for setting, total_s in zip(settings, totals_s, strict=True)
    ]
    ranked = sorted(choices, key=lambda choice: choice.total_s)
    eligible = [choice for choice in ranked if choice.gain > MIN_GAIN and (choice.is_exact or allow_lossy)]
    return Advice(choices=tuple(ranked), recommended=eligible[0] if eligible else choices[0])


def spec_line(choice: Choice) -> str:
    """The line of a job spec that asks for it."""
    if choice.setting.scheme == "uncoded":
        return "exchange: {name: all_reduce}"
    fields: dict[str, object] = {"name": "coded", "scheme": choice.setting.scheme, **choice.setting.parameters}
    if choice.rule.kind == "deadline":
        fields |= {"close": "deadline", "mu": choice.rule.mu, "wait": choice.rule.wait}
    return "exchange: {" + ", ".join(f"{key}: {value}" for key, value in fields.items()) + "}"


def _schemes(num_workers: int, num_models: int) -> Iterator[str]:
    yield "uncoded"
    yield "fractional"
    if num_workers <= MAX_EXHAUSTIVE_WORKERS:
        yield "cyclic"
    if num_models > 1:
        yield from sorted(SEQUENTIAL)
    yield "ignore"
    yield "backup"


def _fastest(scheme: str, situation: Situation) -> Setting | None:
    trace = situation.trace
    settings = legal_settings(scheme, trace.num_workers, max_delay=situation.num_models - 1)
    coded = (setting for setting in settings if setting.parameters.get("stragglers") != 0)
    searched = situation.shortened(SEARCH_JOBS) if scheme in SEQUENTIAL else situation
    return fastest(coded, searched, rule_of(scheme))


def _choice(setting: Setting, total_s: float, uncoded_s: float, num_workers: int) -> Choice:
    scheme = build(setting, num_workers)
    return Choice(
        setting=setting,
        rule=rule_of(setting.scheme),
        is_exact=setting.scheme in EXACT,
        load=scheme.load,
        delay=scheme.delay,
        total_s=total_s,
        gain=1 - total_s / uncoded_s,
    )


def _total_s(setting: Setting, situation: Situation) -> float:
    replayed = situation.replay(build(setting, situation.trace.num_workers), rule_of(setting.scheme))
    assert replayed is not None  # only a limit of seconds ends a replay early
    return replayed.total_s
