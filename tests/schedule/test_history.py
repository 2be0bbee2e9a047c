"""The MLflow runs of a sweep, in a real database: one for the job, and below it one for each trial."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from schedule.history_here import HistoryHere

from orchestrator.core.errors import OutOfReachError
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.launch.trials import prepare_trials, requeue_trials
from orchestrator.schedule import job_runs as module
from orchestrator.schedule.history import JobHistory
from orchestrator.schedule.job_runs import PARENT_RUN
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import dump_resolved, load_recipe_job
from orchestrator.tracking.client import open_client
from orchestrator.tracking.metrics_file import encode_line


@pytest.fixture(scope="module")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(migrated_database: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(migrated_database, tmp_path / 'mlflow.db')}"


@pytest.fixture
def spec(uri: str) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "tiny",
            "recipe": {"target": "tiny.py:Digits"},
            "train": {"steps": 6},
            "exchange": {"name": "coded"},
            "resources": {"workers": 2},
            "tracking": {"uri": uri, "tags": {"team": "a"}},
            "sweep": {"optimizer.lr": [0.1, 0.2]},
        }
    )


@pytest.fixture
def job(spec: JobSpec, tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "runs" / "tiny")
    directory.root.mkdir(parents=True)
    directory.resolved_spec.write_text(dump_resolved(spec), encoding="utf-8")
    directory.update_state(phase="preparing", attempts=0)
    directory.event("queued")
    prepare_trials(directory, spec)
    return directory


def opened(spec: JobSpec, job: RunDirectory) -> JobHistory:
    history = HistoryHere(spec, job)
    history.wait_until_open()
    return history


def end(job: RunDirectory, *phases: str) -> None:
    """Let the job and its trials end in these phases, the trials after steps of their own."""
    for number, (directory, phase) in enumerate(zip([job, *job.trials], phases, strict=True)):
        directory.update_state(phase=phase, finished_at=1000.0 + number)
        if directory is not job:
            directory.metrics_file.write_bytes(encode_line(3, 999.0, {"loss": 0.5 * number}))


def runs(uri: str, job: RunDirectory) -> list[Any]:
    return [open_client(uri).get_run(one.read_state()["mlflow_run_id"]) for one in (job, *job.trials)]


def test_trials_are_children_of_their_job(spec: JobSpec, job: RunDirectory, uri: str) -> None:
    opened(spec, job)
    parent, *children = runs(uri, job)
    assert parent.info.run_id == job.read_state()["mlflow_run_id"]
    assert "mlflow.parentRunId" not in parent.data.tags
    assert parent.data.params["sweep.optimizer.lr"] == "[0.1, 0.2]"
    assert parent.data.tags["workers"] == "2"
    assert [child.info.run_name for child in children] == ["tiny-0", "tiny-1"]
    assert [child.data.params["optimizer.lr"] for child in children] == ["0.1", "0.2"]
    assert [child.data.tags["trial"] for child in children] == ["0", "1"]
    for child, trial in zip(children, job.trials, strict=True):
        assert child.info.experiment_id == parent.info.experiment_id
        assert child.info.status == "RUNNING"
        assert child.data.tags["mlflow.parentRunId"] == job.read_state()["mlflow_run_id"]
        assert (child.data.tags["team"], child.data.tags["run_directory"]) == ("a", str(trial.root))
        assert {file.path for file in open_client(uri).list_artifacts(child.info.run_id)} == {"resolved.yaml"}


def test_runs_end_with_the_truth_and_every_metric(spec: JobSpec, job: RunDirectory, uri: str) -> None:
    history = opened(spec, job)
    end(job, "failed", "succeeded", "failed")
    history.close()
    parent, *children = runs(uri, job)
    assert [one.info.status for one in (parent, *children)] == ["FAILED", "FINISHED", "FAILED"]
    assert [one.info.end_time for one in (parent, *children)] == [1_000_000, 1_001_000, 1_002_000]
    assert [one.data.metrics.get("loss") for one in (parent, *children)] == [None, 0.5, 1.0]
    assert "metrics.jsonl" in {file.path for file in open_client(uri).list_artifacts(children[1].info.run_id)}
    assert [event["event"] for event in read_json_lines(job.events_file)] == ["queued"]


def test_a_job_that_continues_reopens_the_runs_of_unfinished_trials(spec: JobSpec, job: RunDirectory, uri: str) -> None:
    first = opened(spec, job)
    end(job, "stopped", "succeeded", "stopped")
    first.close()
    ids = [one.info.run_id for one in runs(uri, job)]
    job.update_state(phase="queued")
    requeue_trials(job, spec)
    second = opened(spec, job)
    assert [one.info.run_id for one in runs(uri, job)] == ids
    assert [one.info.status for one in runs(uri, job)] == ["RUNNING", "FINISHED", "RUNNING"]
    end(job, "succeeded", "succeeded", "succeeded")
    second.close()
    assert {one.info.status for one in runs(uri, job)} == {"FINISHED"}


def test_without_the_runs_of_all_trials_a_job_does_not_start(
    spec: JobSpec, job: RunDirectory, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids that are known are kept, so that the next life creates only what is missing."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_run", _until("tiny-1"))
        with pytest.raises(OutOfReachError, match="gone"):
            opened(spec, job)
    known = [one.read_state()["mlflow_run_id"] for one in (job, *job.trials)]
    assert [bool(run_id) for run_id in known] == [True, True, False]
    opened(spec, job)
    again = [one.info.run_id for one in runs(uri, job)]
    assert again[:2] == known[:2]
    (experiment,) = open_client(uri).search_experiments(filter_string="name = 'tiny'")
    assert len(open_client(uri).search_runs([experiment.experiment_id])) == 3
    assert job.read_state()["mlflow_run_id"] == known[0]


def test_a_run_that_was_deleted_keeps_no_other_open(spec: JobSpec, job: RunDirectory, uri: str) -> None:
    history = opened(spec, job)
    open_client(uri).delete_run(job.trial(0).read_state()["mlflow_run_id"])
    end(job, "succeeded", "succeeded", "succeeded")
    job.trial(0).metrics_file.unlink()
    history.close()
    assert [one.info.status for one in runs(uri, job)][::2] == ["FINISHED", "FINISHED"]
    assert [event["event"] for event in read_json_lines(job.events_file)] == ["queued", "tracking_out_of_reach"]


def test_runs_that_could_not_be_ended_are_noted_for_whoever_comes_next(
    spec: JobSpec, job: RunDirectory, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = opened(spec, job)
    end(job, "succeeded", "succeeded", "succeeded")

    def is_away(*_: object) -> None:
        raise OutOfReachError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(module, "finish_run", is_away)
        history.close()
    assert job.read_state()["mlflow_open_since"] > 0
    assert [event["event"] for event in read_json_lines(job.events_file)] == ["queued", "tracking_out_of_reach"]
    history.close()
    assert job.read_state()["mlflow_open_since"] is None


def _until(name: str) -> Any:
    """The function that opens runs, of an MLflow that is gone when the run of this name is asked for."""

    def open_run(uri: str, experiment: str, run_name: str, *arguments: Any, **keywords: Any) -> str:
        if run_name == name:
            raise OutOfReachError("gone")
        return _open_run(uri, experiment, run_name, *arguments, **keywords)

    return open_run


_open_run = module.open_run


def test_a_process_beside_the_driver_opens_the_runs_and_another_closes_them_if_it_was_killed(
    spec: JobSpec, job: RunDirectory, uri: str
) -> None:
    history = JobHistory(spec, job)
    history.open_in_background()
    assert history._process is not None
    # Ctrl-C in a terminal reaches the driver's group.
    assert os.getpgid(history._process.pid) != os.getpgid(0)
    history.wait_until_open()
    assert history.run_id == job.read_state()["mlflow_run_id"] != ""
    assert [one.info.status for one in runs(uri, job)] == ["RUNNING"] * 3
    history._process.kill()
    history._process.wait()
    end(job, "succeeded", "succeeded", "failed")
    history.close()
    assert [one.info.status for one in runs(uri, job)] == ["FINISHED", "FINISHED", "FAILED"]
    assert runs(uri, job)[1].data.metrics["loss"] == 0.5


def test_what_the_process_could_not_do_is_the_drivers_error(spec: JobSpec, job: RunDirectory) -> None:
    document = spec.model_dump(mode="json")
    document["tracking"]["uri"] = "http://127.0.0.1:9"
    away = JobSpec.model_validate(document)
    job.resolved_spec.write_text(dump_resolved(away), encoding="utf-8")
    history = JobHistory(away, job)
    history.open_in_background()
    with pytest.raises(OutOfReachError, match=r"127\.0\.0\.1:9"):
        history.wait_until_open()
    history.close()


def test_a_trial_with_a_driver_of_its_own_opens_its_run_below_that_of_its_sweep(
    spec: JobSpec, uri: str, tmp_path: Path
) -> None:
    apart = JobSpec.model_validate({**spec.model_dump(mode="json"), "exchange": {"name": "all_reduce"}})
    sweep = RunDirectory(tmp_path / "runs" / "apart")
    sweep.root.mkdir(parents=True)
    sweep.update_state(phase="preparing", attempts=0)
    prepare_trials(sweep, apart)
    opened(apart, sweep)
    assert [trial.read_state()["mlflow_run_id"] for trial in sweep.trials] == [None, None], "each opens its own"
    trial = RunDirectory(sweep.trial(1).root)
    trial.update_state(**{PARENT_RUN: sweep.read_state()["mlflow_run_id"]})
    opened(load_recipe_job(trial.resolved_spec), trial)
    child = open_client(uri).get_run(trial.read_state()["mlflow_run_id"])
    parent = open_client(uri).get_run(sweep.read_state()["mlflow_run_id"])
    assert child.info.experiment_id == parent.info.experiment_id
    assert (child.info.run_name, child.data.params["optimizer.lr"]) == ("tiny-1", "0.2")
    assert (child.data.tags["mlflow.parentRunId"], child.data.tags["trial"]) == (
        sweep.read_state()["mlflow_run_id"],
        "1",
    )
    assert (child.data.tags["workers"], child.data.tags["team"]) == ("2", "a")
