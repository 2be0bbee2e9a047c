"""Run directories of sweeps whose trials have workers of their own: complete jobs below their sweep."""

import pytest
from launch.test_resume import dead_process

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.control import reconcile
from orchestrator.launch.plan import make_plan
from orchestrator.launch.prepare import prepare, prepare_resume
from orchestrator.spec.load import load_resolved

SWEEP = "sweep: {resources.workers: [1, 2], train.seed: [0, 1]}\ntrials: {concurrent: 3}\n"


@pytest.fixture
def job(load, storage) -> RunDirectory:
    return prepare(load(SWEEP), storage).run_directory


def test_a_trial_is_a_job_in_the_experiment_of_its_sweep(job, storage):
    assert job.read_state()["concurrent"] == 3
    assert job.read_state()["step"] is None
    created = [trial.read_state()["created_at"] for trial in job.trials]
    assert created == sorted(created), "the queue takes them in this order"
    spec = load_resolved(job.trial(2).resolved_spec)
    assert (spec.name, spec.resources.workers, spec.tracking.experiment) == ("tiny-2", 2, "tiny")
    assert spec.queue.owner == load_resolved(job.resolved_spec).queue.owner is not None
    assert (spec.sweep, spec.trials.concurrent) == ({}, 1)


def test_the_storage_of_a_trial_is_that_of_its_sweep(job, storage, tmp_path):
    assert job.storage == job.trial(1).storage == RunDirectory(job.trial(1).root).storage == storage
    assert RunDirectory(tmp_path / "trials" / "mine").storage == tmp_path / "trials", "a storage of that name"


def test_a_named_experiment_is_kept(load, storage):
    job = prepare(load(SWEEP + "tracking: {experiment: digits}\n"), storage).run_directory
    assert load_resolved(job.trial(0).resolved_spec).tracking.experiment == "digits"


def test_a_sweep_goes_on_without_what_is_over(job):
    job.update_state(phase="stopped", driver=dead_process())
    ends = [("succeeded", None), ("stopped", "pruned"), ("failed", "user_error"), ("stopped", "stop_requested")]
    for trial, (phase, reason) in zip(job.trials, ends, strict=True):
        trial.update_state(phase=phase, reason=reason, message="why", finished_at=3.0, driver=dead_process())
    prepare_resume(job, ["trials.concurrent=1"])
    states = [trial.read_state() for trial in job.trials]
    assert [state["phase"] for state in states] == ["succeeded", "stopped", "queued", "queued"]
    assert [state["reason"] for state in states] == [None, "pruned", None, None]
    assert [state["finished_at"] for state in states] == [3.0, 3.0, None, None]
    assert states[2]["driver"] is None
    assert job.read_state()["concurrent"] == 1


def test_how_trials_are_compared_may_not_change(job):
    job.update_state(phase="stopped", driver=dead_process())
    override = "trials.early_stopping={rule: asha, metric: loss, first: {steps: 1}}"
    with pytest.raises(UsageError, match=r"--set: trials\.early_stopping.* would change the training"):
        prepare_resume(job, [override])


def test_a_lost_sweep_closes_its_trials(job):
    job.update_state(phase="running", driver=dead_process())
    job.trial(0).update_state(phase="succeeded", finished_at=3.0)
    job.trial(1).update_state(phase="stopped", reason="pruned", finished_at=4.0)
    job.trial(2).update_state(phase="running")
    reconcile(job)
    assert [trial.read_state()["phase"] for trial in job.trials] == ["succeeded", "stopped", "failed", "failed"]


def test_a_plan_counts_the_models_of_one_trial(load, storage):
    plan = make_plan(load(SWEEP, ("sweep={resources.workers: [2, 1]}",)), storage, {})
    alone = make_plan(load("", ("resources.workers=2",)), storage, {})
    assert plan.concurrent == 3
    assert alone.concurrent is None
    assert plan.workers == 2
    assert plan.memory.peak == alone.memory.peak
