"""Replays of coding schemes as a table and as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.cli.figures import counted, figure
from orchestrator.cli.output import aligned, emit, tell
from orchestrator.core.coding.waiting import WaitRule
from orchestrator.simulate.stragglers.build import Setting, build
from orchestrator.simulate.stragglers.patterns import Pattern
from orchestrator.simulate.stragglers.replay import Replay
from orchestrator.simulate.stragglers.search import Situation

MAX_BURSTS = 5
"""Lengths of bursts that a person is shown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One scheme and what became of it."""

    setting: Setting
    rule: WaitRule
    load: float
    """Largest share of a batch that a worker computes in a round."""
    delay: int
    """Rounds after its own by which a job is decoded."""
    num_messages: int
    """Most messages of a worker in a round."""
    replay: Replay
    relative: float
    """Its total time relative to that of the first row."""


def replayed_rows(
    settings: Sequence[Setting], situation: Situation, rules: Mapping[str, WaitRule], *, decodes: bool, seed: int
) -> list[Row]:
    """A row for each setting, in their order.

    Raises:
        UsageError: where a setting is not legal, or cannot be replayed in this situation.
    """
    rows: list[Row] = []
    for setting in settings:
        scheme = build(setting, situation.trace.num_workers, seed=seed)
        replay = situation.replay(scheme, rules[setting.scheme], decodes=decodes)
        assert replay is not None  # only a limit of seconds ends a replay early
        rows.append(
            Row(
                setting=setting,
                rule=rules[setting.scheme],
                load=scheme.load,
                delay=scheme.delay,
                num_messages=scheme.num_messages,
                replay=replay,
                relative=replay.total_s / rows[0].replay.total_s if rows else 1.0,
            )
        )
    return rows


def emit_table(trace_name: str, situation: Situation, rows: Sequence[Row], mu: float) -> None:
    """Print what the trace is like, and a line for each row."""
    pattern = _pattern(situation, mu)
    bursts = ", ".join(f"{length} x {num:,}" for length, num in enumerate(pattern.bursts[:MAX_BURSTS], start=1))
    emit(
        f"{trace_name}: {counted(situation.trace.num_workers, 'worker')}, {counted(situation.num_jobs, 'job')}. "
        f"Uncoded, {pattern.late_share:.1%} of the times are more than {figure(1 + mu)} times the fastest of the round"
        f"{f' (rounds in a row: {bursts})' if bursts else ''}; "
        f"the slowest is {figure(pattern.slowest_ratio)} times the median.\n"
    )
    header = ["SCHEME", "CLOSES", "LOAD", "DELAY", "MESSAGES", "TOTAL", "RELATIVE", "WAITED OUT", "SKIPPED"]
    header += ["MISSING", "IN FLIGHT", "FASTEST"]
    has_sets = rows[0].replay.num_survivor_sets is not None
    emit("\n".join(aligned([header + ["SETS"] * has_sets, *map(_cells, rows)])))
    for row in rows:
        if row.replay.num_undecoded:
            tell(f"warning: {row.setting}: {counted(row.replay.num_undecoded, 'job')} could not be decoded.")


def as_json_document(trace_name: str, situation: Situation, rows: Sequence[Row], mu: float) -> dict[str, Any]:
    """All of it as data."""
    return {
        "trace": trace_name,
        "workers": situation.trace.num_workers,
        "jobs": situation.num_jobs,
        "models": situation.num_models,
        "carry_over": situation.carry_over,
        "uncoded": asdict(_pattern(situation, mu)),
        "schemes": [_as_json(row) for row in rows],
    }


def _pattern(situation: Situation, mu: float) -> Pattern:
    return Pattern.of(situation.trace.uncoded_s()[: situation.num_jobs], mu)


def closes(rule: WaitRule) -> str:
    """A rule in a word or two."""
    return "first" if rule.kind == "first" else f"mu {rule.mu:g}, {rule.wait}"


def _cells(row: Row) -> list[str]:
    replay = row.replay
    sets = replay.num_survivor_sets
    return [
        str(row.setting),
        closes(row.rule),
        f"{row.load:.4g}",
        str(row.delay),
        str(row.num_messages),
        f"{figure(replay.total_s)} s",
        f"{row.relative:.3f}",
        f"{replay.num_waited_out:,}",
        f"{replay.num_skipped:,}",
        f"{replay.straggler_share:.1%}",
        str(replay.max_in_flight),
        f"{figure(replay.fastest_round_s)} s",
        *([] if sets is None else [f"{sets:,}"]),
    ]


def _as_json(row: Row) -> dict[str, Any]:
    replay = row.replay
    return {
        "scheme": row.setting.scheme,
        "parameters": dict(row.setting.parameters),
        "rule": asdict(row.rule),
        "load": row.load,
        "delay": row.delay,
        "messages": row.num_messages,
        "total_s": replay.total_s,
        "relative": row.relative,
        "round_s": replay.round_s.tolist(),
        "fastest_round_s": replay.fastest_round_s,
        "waited_out": replay.num_waited_out,
        "skipped": replay.num_skipped,
        "straggler_share": replay.straggler_share,
        "bursts": replay.bursts,
        "max_in_flight": replay.max_in_flight,
        "undecoded": replay.num_undecoded,
        "survivor_sets": replay.num_survivor_sets,
    }
