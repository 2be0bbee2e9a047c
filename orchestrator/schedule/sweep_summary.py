"""What has become of a sweep's trials, in words. Pure: states in, texts out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.core.run_directory import PRUNED
from orchestrator.spec.check_sweep import described

_MAX_TOLD = 3
"""Failed trials that a message names."""


def is_over(state: Mapping[str, Any]) -> bool:
    """Whether there is nothing left of a trial to do, or nothing that could be done."""
    return state["phase"] in ("succeeded", "failed") or state.get("reason") == PRUNED


def summary_of(states: Sequence[Mapping[str, Any]], num_running: int) -> str:
    """How far a sweep is, in words: ``5 of 8 trials ended (3 finished, 2 stopped early), 2 run``."""
    kinds = Counter(
        {"succeeded": "finished", "failed": "failed"}.get(state["phase"], "stopped early")
        for state in states
        if is_over(state)
    )
    parts = [f"{kinds[kind]} {kind}" for kind in ("finished", "stopped early", "failed") if kinds[kind]]
    text = f"{sum(kinds.values())} of {len(states)} trials ended" + (f" ({', '.join(parts)})" if parts else "")
    return f"{text}, {num_running} running" if num_running else text


def failures_of(states: Sequence[Mapping[str, Any]], assignments: Sequence[Mapping[str, Any]]) -> str | None:
    """Which trials have failed, what they set and why; None where none has.

    Args:
        states: of the trials, by number.
        assignments: what each trial sets.
    """
    failed = [number for number, state in enumerate(states) if state["phase"] == "failed"]
    if not failed:
        return None
    told = [
        f"trial {number} ({described(assignments[number])}): "
        + str(states[number].get("message") or states[number].get("reason")).partition("\n")[0]
        for number in failed[:_MAX_TOLD]
    ]
    more = [f"and {len(failed) - _MAX_TOLD} more"] if len(failed) > _MAX_TOLD else []
    return f"{len(failed)} of {len(states)} trials failed: {'; '.join([*told, *more])}"
