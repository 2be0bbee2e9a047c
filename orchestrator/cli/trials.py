"""The trials of a sweep, for people and scripts: what each sets, and how far it is or how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.cli.figures import figure
from orchestrator.cli.follow import last_evaluation
from orchestrator.cli.output import aligned, paint, phase_text
from orchestrator.core.run_directory import PRUNED, RunDirectory, last_json_line
from orchestrator.spec.problems import shown

Assignment = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One trial of a sweep, as its run directory tells of it."""

    trial: int
    assignment: Assignment
    """What it sets, by dotted path."""
    phase: str
    step: int | None
    """None where a script counts its own."""
    loss: float | str | None
    """Of its last logged step; None before the first, and of a script. Not a number is ``"NaN"``."""
    evaluation: Mapping[str, Any]
    """Its newest ``eval/`` metrics."""
    model: Path | None
    """Its final weights; None before it has succeeded."""
    mlflow_run_id: str | None
    reason: str | None
    """Why it ended, where it did not succeed and that is known."""


def trial_rows(run: RunDirectory) -> list[TrialRow]:
    """All trials by number; empty for a job without a sweep."""
    directories = run.trials
    if not directories:
        return []
    from orchestrator.spec.load import load_resolved
    from orchestrator.spec.sweep import assignments_of

    assignments = assignments_of(load_resolved(run.resolved_spec))
    return [_row(number, *trial) for number, trial in enumerate(zip(directories, assignments, strict=True))]


def _row(number: int, directory: RunDirectory, assignment: Assignment) -> TrialRow:
    state, last = directory.read_state(), last_json_line(directory.metrics_file) or {}
    return TrialRow(
        trial=number,
        assignment=assignment,
        phase=state["phase"],
        step=None if state["step"] is None else last.get("step", 0),
        loss=last.get("loss"),
        evaluation=last_evaluation(directory),
        model=directory.model_file if directory.model_file.exists() else None,
        mlflow_run_id=state["mlflow_run_id"],
        reason=state.get("reason"),
    )


def rows_as_json(rows: Sequence[TrialRow]) -> list[dict[str, Any]]:
    """The rows under the names of their fields."""
    return [asdict(row) for row in rows]


def trial_table(rows: Sequence[TrialRow]) -> list[str]:
    """Lines for a person: each trial with its values, and what it has come to; of scripts that is the phase."""
    if all(row.step is None for row in rows):
        header = ("TRIAL", *rows[0].assignment, "PHASE")
        return aligned([header, *((*_assigned(row.trial, row.assignment), _ending(row)) for row in rows)])
    metrics = list(dict.fromkeys(name for row in rows for name in row.evaluation))
    header = ("TRIAL", *rows[0].assignment, "PHASE", "STEP", "LOSS", *metrics, "MODEL")
    cells = [
        (
            *_assigned(row.trial, row.assignment),
            _ending(row),
            "" if row.step is None else f"{row.step:,}",
            "" if row.loss is None else figure(row.loss),
            *(figure(row.evaluation[name]) if name in row.evaluation else "" for name in metrics),
            "" if row.model is None else str(row.model),
        )
        for row in rows
    ]
    return aligned([header, *cells])


def best_trial(run: RunDirectory, rows: Sequence[TrialRow]) -> str | None:
    """The finished trial with the best last value, in words; None where there is none to compare.

    Of what early stopping compares, else of eval/loss, else of the loss.
    """
    from orchestrator.spec.load import load_resolved

    rule = load_resolved(run.resolved_spec).trials.early_stopping
    has_evaluated_loss = any("eval/loss" in row.evaluation for row in rows)
    metric = rule.metric if rule else "eval/loss" if has_evaluated_loss else "loss"
    values = {row.trial: _number({"loss": row.loss, **row.evaluation}.get(metric)) for row in rows}
    finished = [row for row in rows if row.phase == "succeeded" and math.isfinite(values[row.trial])]
    if not finished:
        return None
    sign = -1.0 if rule and rule.mode == "max" else 1.0
    best = min(finished, key=lambda row: sign * values[row.trial])
    sets = ", ".join(f"{path} = {shown(value)}" for path, value in best.assignment.items())
    return f"trial {best.trial} ({sets}): {metric} {figure(values[best.trial])}"


def assignment_table(assignments: Sequence[Assignment]) -> list[str]:
    """Lines for a person: what each trial sets."""
    header = ("TRIAL", *assignments[0])
    return aligned([header, *(_assigned(number, assignment) for number, assignment in enumerate(assignments))])


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _ending(row: TrialRow) -> str:
    return paint(PRUNED, "yellow") if row.reason == PRUNED else phase_text(row.phase)


def _assigned(number: int, assignment: Assignment) -> tuple[str, ...]:
    return (str(number), *(value if isinstance(value, str) else shown(value) for value in assignment.values()))
