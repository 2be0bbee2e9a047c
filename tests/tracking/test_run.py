import logging
import os
import subprocess
import sys

import filelock
import pytest

from orchestrator.core.errors import OutOfReachError, UsageError
from orchestrator.tracking import run
from orchestrator.tracking.client import open_client


@pytest.fixture
def run_id(sqlite_uri):
    return run.open_run(sqlite_uri, "digits", "digits-lamb", {"attempt": "1"}, {"train.seed": "0"})


def test_a_new_run_has_name_tags_and_params(sqlite_uri, run_id):
    found = open_client(sqlite_uri).get_run(run_id)
    assert (found.info.run_name, found.info.status) == ("digits-lamb", "RUNNING")
    assert (found.data.tags["attempt"], found.data.params) == ("1", {"train.seed": "0"})
    assert open_client(sqlite_uri).get_experiment(found.info.experiment_id).name == "digits"


def test_a_second_run_joins_the_experiment(sqlite_uri, run_id):
    second = run.open_run(sqlite_uri, "digits", "again", {}, {})
    client = open_client(sqlite_uri)
    assert client.get_run(second).info.experiment_id == client.get_run(run_id).info.experiment_id


def test_artifacts_lie_under_the_root_that_was_named(sqlite_uri, tmp_path):
    root = tmp_path / "a folder" / "artifacts"
    run_id = run.open_run(sqlite_uri, "other", "other", {}, {}, artifact_root=root)
    (tmp_path / "resolved.yaml").write_text("name: digits\n")
    run.log_artifact(sqlite_uri, run_id, tmp_path / "resolved.yaml", "spec")
    stored = root / run_id / "artifacts" / "spec" / "resolved.yaml"
    assert stored.read_text() == "name: digits\n"


def test_nothing_is_left_where_the_process_stands(sqlite_uri, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run.open_run(sqlite_uri, "digits", "digits", {}, {})
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(("phase", "status"), [("succeeded", "FINISHED"), ("failed", "FAILED"), ("stopped", "KILLED")])
def test_the_last_phase_becomes_the_status(sqlite_uri, run_id, phase, status):
    run.finish_run(sqlite_uri, run_id, phase, end_time_s=1_700_000_000.5)
    info = open_client(sqlite_uri).get_run(run_id).info
    assert (info.status, info.end_time) == (status, 1_700_000_000_500)


def test_a_phase_that_is_no_end_is_refused(sqlite_uri, run_id):
    with pytest.raises(ValueError, match="Must be one of succeeded, failed, stopped"):
        run.finish_run(sqlite_uri, run_id, "running")


def test_a_reopened_run_keeps_its_name_and_takes_metrics(sqlite_uri, run_id, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "somebody-elses")
    run.finish_run(sqlite_uri, run_id, "failed")
    run.reopen_run(sqlite_uri, run_id)
    found = open_client(sqlite_uri).get_run(run_id)
    assert (found.info.run_name, found.info.status) == ("digits-lamb", "RUNNING")
    assert found.data.tags["mlflow.runName"] == "digits-lamb"
    assert os.environ["MLFLOW_RUN_ID"] == "somebody-elses"


def test_a_param_may_be_repeated_but_not_changed(sqlite_uri, run_id):
    run.log_params(sqlite_uri, run_id, {"train.seed": "0", "train.steps": "300"})
    with pytest.raises(UsageError, match="Changing param values is not allowed"):
        run.log_params(sqlite_uri, run_id, {"train.seed": "1"})
    assert open_client(sqlite_uri).get_run(run_id).data.params == {"train.seed": "0", "train.steps": "300"}


def test_tags_may_change_from_attempt_to_attempt(sqlite_uri, run_id):
    run.set_tags(sqlite_uri, run_id, {"attempt": "2", "long": "x" * 9000})
    tags = open_client(sqlite_uri).get_run(run_id).data.tags
    assert (tags["attempt"], tags["long"][-23:]) == ("2", "[cut, 9000 characters]".rjust(23))


def test_more_params_than_one_request_takes(sqlite_uri, run_id):
    params = {f"recipe.args.{index}": str(index) for index in range(250)}
    assert run.log_params(sqlite_uri, run_id, params) == ()
    assert len(open_client(sqlite_uri).get_run(run_id).data.params) == 251


def test_long_params_are_cut_visibly(sqlite_uri, run_id, caplog):
    with caplog.at_level(logging.WARNING):
        cut = run.log_params(sqlite_uri, run_id, {"long": "x" * 7000, "short": "", "odd[name]": "1"})
    params = open_client(sqlite_uri).get_run(run_id).data.params
    assert cut == ("long",)
    assert len(params["long"]) == 6000
    assert params["long"].endswith("x ... [cut, 7000 characters]")
    assert (params["short"], params["odd_name_"]) == ("", "1")
    assert "values beyond 6000 characters are cut: long" in caplog.text


def test_a_deleted_experiment_is_named_with_the_remedy(sqlite_uri, run_id):
    client = open_client(sqlite_uri)
    client.delete_experiment(client.get_experiment_by_name("digits").experiment_id)
    with pytest.raises(UsageError, match=r"'digits' was deleted; restore it with `mlflow experiments restore"):
        run.open_run(sqlite_uri, "digits", "digits", {}, {})


def test_a_deleted_run_cannot_be_reopened(sqlite_uri, run_id):
    open_client(sqlite_uri).delete_run(run_id)
    with pytest.raises(UsageError, match=f"did not reopen run {run_id}"):
        run.reopen_run(sqlite_uri, run_id)


def test_a_missing_database_driver_is_named(monkeypatch):
    with pytest.raises(UsageError, match="install the driver"), run.mlflow_errors("mssql://u:p@host/db", "open a run"):
        raise ModuleNotFoundError("No module named 'pyodbc'")


def test_an_unusable_database_is_out_of_reach(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is a letter, not a database" * 100)
    with pytest.raises(OutOfReachError, match="not a database"):
        run.open_run(f"sqlite:///{tmp_path / 'mlflow.db'}", "digits", "digits", {}, {})


def test_another_job_that_prepares_the_database_is_waited_for_only_so_long(sqlite_uri, tmp_path):
    with filelock.FileLock(f"{tmp_path}/mlflow.db.lock"), pytest.raises(OutOfReachError, match="still prepares"):
        run.open_run(sqlite_uri, "digits", "digits", {}, {}, timeout_s=0.1)


def test_nested_values_become_dotted_params():
    values = {
        "name": "digits",
        "train": {"steps": 300, "clip_grad_norm": None},
        "optimizer": {"betas": [0.9, 0.999], "fused": False},
        "modulators": [{"name": "sam", "rho": 0.05}],
        "sweep": {},
        "modules": [],
        "tracking": {"uri": "http://ann:s3cret@host:5000"},
        "env": {"HF_TOKEN": "s3cret", "WANDB_API_KEY": None, "OMP_NUM_THREADS": "1"},
    }
    assert run.flatten(values) == {
        "name": "digits",
        "train.steps": "300",
        "train.clip_grad_norm": "null",
        "optimizer.betas": "[0.9, 0.999]",
        "optimizer.fused": "false",
        "modulators.0.name": "sam",
        "modulators.0.rho": "0.05",
        "sweep": "{}",
        "modules": "[]",
        "tracking.uri": "http://ann:***@host:5000",
        "env.HF_TOKEN": "***",
        "env.WANDB_API_KEY": "null",
        "env.OMP_NUM_THREADS": "1",
    }


@pytest.mark.timeout(300)
def test_two_jobs_may_open_the_same_fresh_database_at_once(tmp_path):
    """Both migrate it and both create the experiment; MLflow alone leaves one of them with an error."""
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    code = f"""
import sys
from orchestrator.tracking.client import open_client
from orchestrator.tracking.run import open_run
import mlflow
print("ready", flush=True)
sys.stdin.readline()
print(open_run({uri!r}, "shared", "job", {{}}, {{"a": "1"}}))
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    answers = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], answers
    run_ids = {answer[0].strip() for answer in answers}
    client = open_client(uri)
    assert len(run_ids) == 2
    assert {client.get_experiment(client.get_run(found).info.experiment_id).name for found in run_ids} == {"shared"}
