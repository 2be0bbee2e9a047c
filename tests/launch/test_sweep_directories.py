"""Run directories of sweeps: made whole, continued with the same trials, closed with their job."""

import os
import shutil

import pytest
from launch.test_resume import dead_process

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.control import reconcile
from orchestrator.launch.export import export
from orchestrator.launch.plan import make_plan
from orchestrator.launch.prepare import prepare, prepare_resume
from orchestrator.spec.load import load_resolved, spec_hash
from orchestrator.spec.sweep import trials_of
from orchestrator.tracking.client import open_client
from orchestrator.tracking.run import open_run

SWEEP = "resources: {workers: 2}\nexchange: coded\nsweep: {optimizer.lr: [0.1, 0.2], train.seed: [0, 1]}\n"


@pytest.fixture
def job(load, storage) -> RunDirectory:
    return prepare(load(SWEEP), storage).run_directory


def phases(job: RunDirectory) -> list[str]:
    return [trial.read_state()["phase"] for trial in job.trials]


def test_every_trial_has_a_run_directory(job):
    assert [trial.root for trial in job.trials] == [job.root / "trials" / str(number) for number in range(4)]
    specs = trials_of(load_resolved(job.resolved_spec))
    for trial, spec in zip(job.trials, specs, strict=True):
        assert sorted(os.listdir(trial.root)) == ["code", "resolved.yaml", "state.json"]
        assert load_resolved(trial.resolved_spec) == spec
        assert (trial.code / "recipe.py").read_text() == (job.code / "recipe.py").read_text()
        state = trial.read_state()
        del state["updated_at"]
        expected = {"phase": "queued", "attempts": 0, "step": 0, "mlflow_run_id": None, "spec_hash": spec_hash(spec)}
        assert state == expected
    assert load_resolved(job.trial(1).resolved_spec).tracking.uri == load_resolved(job.resolved_spec).tracking.uri


def test_the_code_of_trials_moves_with_the_job(job, tmp_path):
    assert os.readlink(job.trial(0).code) == "../../code"
    elsewhere = shutil.move(job.root, tmp_path / "elsewhere")
    assert (RunDirectory(elsewhere).trial(3).code / "recipe.py").exists()


def test_a_job_without_a_sweep_has_no_trials(prepared):
    assert prepared.run_directory.trials == []
    assert not (prepared.run_directory.root / "trials").exists()


def test_trials_are_in_the_order_of_their_numbers(load, storage):
    job = prepare(load(SWEEP, ("sweep={train.seed: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}",)), storage).run_directory
    (job.root / "trials" / ".hidden").touch()
    assert [trial.name for trial in job.trials] == [str(number) for number in range(11)]


def test_one_file_stops_the_job_and_its_trials(job):
    job.stop_file.touch()
    assert all(trial.stop_file.exists() for trial in job.trials)
    assert job.trial(2).stop_file == job.stop_file


def test_trials_have_the_name_that_the_job_got(load, storage, job):
    second = prepare(load(SWEEP), storage, new_name=True).run_directory
    assert [load_resolved(trial.resolved_spec).name for trial in second.trials] == [f"tiny-2-{k}" for k in range(4)]
    assert load_resolved(job.trial(3).resolved_spec).name == "tiny-3"


def test_trials_continue_with_their_job_unless_they_are_finished(job):
    job.update_state(phase="stopped", attempts=1, driver=dead_process())
    for trial, phase in zip(job.trials, ("succeeded", "stopped", "failed", "stopped"), strict=True):
        trial.update_state(phase=phase, attempts=1, step=5, mlflow_run_id="abc", finished_at=3.0)
    prepare_resume(job, ["resources.workers=3"])
    assert phases(job) == ["succeeded", "queued", "queued", "queued"]
    states = [trial.read_state() for trial in job.trials]
    assert [state["finished_at"] for state in states] == [3.0, None, None, None]
    assert {(state["attempts"], state["step"], state["mlflow_run_id"]) for state in states} == {(1, 5, "abc")}
    assert {load_resolved(trial.resolved_spec).resources.workers for trial in job.trials} == {3}


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("sweep={optimizer.lr: [0.1, 0.3], train.seed: [0, 1]}", "sweep.optimizer.lr"),
        ("sweep={optimizer.lr: [0.1, 0.2]}", "sweep.train.seed"),
        ("sweep={}", "sweep.optimizer.lr, sweep.train.seed"),
        ("sweep={zip: {optimizer.lr: [0.1, 0.2], train.seed: [0, 1]}}", "sweep.optimizer.lr"),
        # The same trials, but under other numbers.
        ("sweep={train.seed: [0, 1], optimizer.lr: [0.1, 0.2]}", "sweep"),
    ],
)
def test_a_sweep_may_not_change(override, path, job, load, storage):
    job.update_state(phase="stopped", driver=dead_process())
    with pytest.raises(UsageError, match=rf"^--set: {path}[ ,].*would change the training"):
        prepare_resume(job, [override, "resources.workers=3"])
    with pytest.raises(UsageError, match=rf"this is not the job tiny .*: {path}[ ,].*differ"):
        prepare(load(SWEEP, (override, "resources.workers=3")), storage, resume=True)
    assert phases(job) == ["queued"] * 4
    assert load_resolved(job.trial(0).resolved_spec).resources.workers == 2


def test_a_sweep_continues_by_the_same_spec(job, load, storage):
    job.update_state(phase="stopped", driver=dead_process())
    assert prepare(load(SWEEP), storage, resume=True).resumed


def test_a_lost_job_closes_its_trials_and_their_mlflow_runs(job):
    uri = job.read_state()["tracking_uri"]
    ids = [open_run(uri, "tiny", name, {}, {}) for name in ("tiny", "tiny-0", "tiny-1", "tiny-2")]
    job.update_state(phase="running", driver=dead_process(), mlflow_run_id=ids[0])
    for trial, run_id in zip(job.trials, ids[1:], strict=False):
        trial.update_state(phase="running", mlflow_run_id=run_id)
    job.trial(0).update_state(phase="succeeded", finished_at=1000.0)
    job.trial(1).model_file.touch()
    reconcile(job)
    assert phases(job) == ["succeeded", "succeeded", "failed", "failed"]
    infos = [open_client(uri).get_run(run_id).info for run_id in ids]
    assert [info.status for info in infos] == ["FAILED", "FINISHED", "FINISHED", "FAILED"]
    assert infos[1].end_time == 1_000_000


def test_a_plan_is_of_the_first_trial(load, storage):
    loaded = load(SWEEP, ("sweep={zip: {train.steps: [7, 9], batch.global_size: [64, 32]}}",))
    plan = make_plan(loaded, storage, {})
    assert plan.trials == ({"train.steps": 7, "batch.global_size": 64}, {"train.steps": 9, "batch.global_size": 32})
    assert (plan.total_steps, plan.total_samples, plan.phases[0].global_batch_size) == (7, 448, 64)
    assert "name: tiny\n" in plan.resolved
    alone = make_plan(load(SWEEP, ("sweep={}", "batch.global_size=64")), storage, {})
    assert plan.memory.peak.parameters == 2 * alone.memory.peak.parameters > 0
    assert plan.memory.peak.activations == alone.memory.peak.activations
    assert make_plan(load(), storage, {}).trials == ()


def test_weights_of_a_sweep_are_those_of_its_trials(job, tmp_path):
    with pytest.raises(UsageError, match=r"tiny is a sweep; a trial's weights are in .*trials/0/model\.safetensors"):
        export(job, step=None, output=tmp_path / "weights.safetensors", force=False)
