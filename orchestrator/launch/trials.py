"""The run directories of a sweep's trials, below that of their job."""

from __future__ import annotations

from typing import Any

from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory, write_atomically
from orchestrator.spec.job import AnyJobSpec, ScriptJobSpec
from orchestrator.spec.load import dump_resolved, spec_hash
from orchestrator.spec.sweep import trials_of


def prepare_trials(run_directory: RunDirectory, spec: AnyJobSpec) -> None:
    """Make ``trials/<k>`` of a new job with a sweep; may be called again when the job gets another name."""
    for trial, trial_spec in _trials(run_directory, spec):
        trial.root.mkdir(parents=True, exist_ok=True)
        if not trial.code.is_symlink():
            # Relative: the folder is built elsewhere and then moved.
            trial.code.symlink_to("../../code", target_is_directory=True)
        write_atomically(trial.resolved_spec, dump_resolved(trial_spec))
        trial.update_state(phase="queued", attempts=0, step=0, mlflow_run_id=None, spec_hash=spec_hash(trial_spec))


def requeue_trials(run_directory: RunDirectory, spec: AnyJobSpec) -> None:
    """Make the trials of a job that continues ready too; those that are finished stay so."""
    for trial, trial_spec in _trials(run_directory, spec):
        write_atomically(trial.resolved_spec, dump_resolved(trial_spec))
        if trial.read_state()["phase"] != "succeeded":
            trial.update_state(phase="queued", finished_at=None)


def close_trials(run_directory: RunDirectory, phase: str, finished_at: float) -> list[dict[str, Any]]:
    """Close the records of trials that no driver has closed, in the last phase of their job; the states of all."""
    states = []
    for trial in run_directory.trials:
        state = trial.read_state()
        if state["phase"] not in TERMINAL_PHASES:
            own_phase = "succeeded" if trial.model_file.exists() else phase
            state = trial.update_state(phase=own_phase, finished_at=finished_at)
        states.append(state)
    return states


def _trials(run_directory: RunDirectory, spec: AnyJobSpec) -> list[tuple[RunDirectory, AnyJobSpec]]:
    if isinstance(spec, ScriptJobSpec) or not spec.sweep:
        return []
    return [(run_directory.trial(number), trial) for number, trial in enumerate(trials_of(spec))]
