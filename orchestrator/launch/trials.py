"""The run directories of a sweep's trials, below that of their job."""

from __future__ import annotations

import time

from orchestrator.core.run_directory import PRUNED, TERMINAL_PHASES, RunDirectory, write_atomically
from orchestrator.spec.job import AnyJobSpec, ScriptJobSpec
from orchestrator.spec.load import dump_resolved, spec_hash
from orchestrator.spec.sweep import has_separate_trials, trials_of


def prepare_trials(run_directory: RunDirectory, spec: AnyJobSpec) -> None:
    """Make ``trials/<k>`` of a new job with a sweep; may be called again when the job gets another name."""
    for trial, trial_spec in _trials(run_directory, spec):
        trial.root.mkdir(parents=True, exist_ok=True)
        if not trial.code.is_symlink():
            # Relative: the folder is built elsewhere and then moved.
            trial.code.symlink_to("../../code", target_is_directory=True)
        write_atomically(trial.resolved_spec, dump_resolved(trial_spec))
        step = None if isinstance(trial_spec, ScriptJobSpec) else 0
        trial.update_state(phase="queued", attempts=0, step=step, mlflow_run_id=None, spec_hash=spec_hash(trial_spec))
        if has_separate_trials(spec):
            trial.update_state(created_at=time.time())
    if has_separate_trials(spec):
        run_directory.update_state(step=None, concurrent=spec.trials.concurrent)


def requeue_trials(run_directory: RunDirectory, spec: AnyJobSpec) -> None:
    """Make the trials of a job that continues ready too; those that are finished, or pruned, stay so."""
    for trial, trial_spec in _trials(run_directory, spec):
        write_atomically(trial.resolved_spec, dump_resolved(trial_spec))
        state = trial.read_state()
        if state["phase"] != "succeeded" and state.get("reason") != PRUNED:
            trial.update_state(phase="queued", finished_at=None)
            if has_separate_trials(spec):
                trial.update_state(reason=None, message="", driver=None)
    if has_separate_trials(spec):
        run_directory.update_state(concurrent=spec.trials.concurrent)


def close_trials(run_directory: RunDirectory, phase: str, finished_at: float) -> None:
    """Close the records of trials that no driver has closed, in the last phase of their job."""
    for trial in run_directory.trials:
        if trial.read_state()["phase"] not in TERMINAL_PHASES:
            own_phase = "succeeded" if trial.model_file.exists() else phase
            trial.update_state(phase=own_phase, finished_at=finished_at)


def _trials(run_directory: RunDirectory, spec: AnyJobSpec) -> list[tuple[RunDirectory, AnyJobSpec]]:
    if not spec.sweep:
        return []
    trials = trials_of(spec)
    if has_separate_trials(spec):
        # Each opens its own MLflow run, in the sweep's experiment.
        experiment = spec.tracking.experiment or spec.name
        tracking = spec.tracking.model_copy(update={"experiment": experiment})
        trials = tuple(trial.model_copy(update={"tracking": tracking}) for trial in trials)
    return [(run_directory.trial(number), trial) for number, trial in enumerate(trials)]
