"""What the command line says of a job with a script."""

import json
from pathlib import Path

import pytest
from cli.page_jobs import STARTED_AT, write_event

from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec
from orchestrator.tracking.client import open_client
from orchestrator.tracking.run import open_run

SWEEP = "sweep: {script.options.lr: [0.1, 0.2]}\ntrials: {concurrent: 2}\n"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "train.py").write_text("print('trains')\n")
    (folder / "job.yaml").write_text("name: tiny\nscript: {path: train.py, args: [-v]}\nresources: {workers: 2}\n")
    return folder / "job.yaml"


def test_check_and_plan(cli, script: Path, storage: Path) -> None:
    assert cli("check", script).out.endswith("job tiny is in order\n")
    answer = cli("plan", script, "--storage", storage)
    assert (answer.code, answer.err) == (0, "")
    assert "script                    python train.py -v, on every worker\n" in answer.out
    assert "batch, length and memory  decided by the script\n" in answer.out
    assert "placement                 2 workers with 1 CPU and 0 GPUs each, pack\n" in answer.out
    assert "BACKWARDS PER STEP" not in answer.out
    assert "resolved spec\nname: tiny\nscript:\n  path: train.py\n" in answer.out
    assert json.loads(cli("plan", script, "--storage", storage, "--json").out)["script"] == "python train.py -v"


def test_a_section_of_recipes_is_refused_in_one_line(cli, script: Path) -> None:
    answer = cli("check", script, "--set", "batch.global_size=64")
    assert (answer.code, answer.out) == (2, "")
    assert (
        "--set: batch: belongs to jobs with a recipe; a script decides this itself. Legal: name, script" in answer.err
    )


def test_status_and_list_show_no_steps(cli, script: Path, storage: Path) -> None:
    run = prepare(load_spec(script), storage).run_directory
    run.update_state(phase="failed", attempts=1, message="train.py on rank 1 ended with exit code 1: ValueError: boom")
    shown = cli("status", "tiny", "--storage", storage).out
    assert "ValueError: boom" in shown
    assert "progress" not in shown
    assert "next           orchestrator logs tiny, orchestrator resume tiny\n" in shown
    assert json.loads(cli("status", "tiny", "--storage", storage, "--json").out)["step"] is None
    assert cli("list", "--storage", storage).out.splitlines()[1].split()[:3] == ["tiny", "failed", "1"]


@pytest.fixture
def sweep(script: Path, storage: Path) -> RunDirectory:
    """Two trials with two workers for half an hour, the second of which has failed."""
    script.write_text(script.read_text() + SWEEP)
    run = prepare(load_spec(script), storage).run_directory
    for trial, end in zip(run.trials, ("succeeded", "failed"), strict=True):
        write_event(trial, STARTED_AT, "placed", attempt=1, workers=2, script="train.py")
        write_event(trial, STARTED_AT + 1800, end, reason=None, message="so it ended")
        trial.update_state(phase=end, started_at=STARTED_AT, finished_at=STARTED_AT + 1865)
    run.update_state(phase="failed", message="1 of 2 trials failed", started_at=STARTED_AT, finished_at=STARTED_AT)
    return run


def test_check_and_plan_of_a_sweep(cli, script: Path, storage: Path) -> None:
    script.write_text(script.read_text() + SWEEP)
    assert "job tiny is in order, a sweep of 2 trials" in cli("check", script).out
    out = cli("plan", script, "--storage", storage).out
    assert "2 trials with workers of their own, 2 at a time\n" in out
    assert "python train.py -v --lr 0.1, on every worker (trial 0)\n" in out
    assert "what follows is trial 0's" not in out


def test_of_the_trials_of_a_script_the_phases_are_known(cli, sweep: RunDirectory, storage: Path) -> None:
    table = cli("status", "tiny", "--storage", storage).out.splitlines()[-3:]
    assert [line.split() for line in table] == [
        ["TRIAL", "script.options.lr", "PHASE"],
        ["0", "0.1", "succeeded"],
        ["1", "0.2", "failed"],
    ]
    trials = json.loads(cli("status", "tiny", "--storage", storage, "--json").out)["trials"]
    assert [(row["step"], row["loss"], row["phase"]) for row in trials] == [
        (None, None, "succeeded"),
        (None, None, "failed"),
    ]
    assert cli("report", "tiny", "--storage", storage).code == 0
    page = sweep.report_file.read_text()
    assert "<dt>cost</dt><dd>2 worker-hours</dd>" in page
    assert "<td>trial 1, 1</td>" in page


COMPARED = """\
JOB     script.options.lr  PHASE      STEPS  SAMPLES  WALL TIME     WORKER-HOURS  BEST eval_accuracy  AT
tiny/0  0.1                succeeded  2               31 min 05 s   1             0.75                step 1
tiny/1  0.2                failed                     31 min 05 s   1

best: tiny/0, eval_accuracy 0.75 at step 1
"""


def test_what_scripts_have_logged_to_mlflow_is_compared(cli, sweep: RunDirectory, storage: Path) -> None:
    uri = f"sqlite:///{storage}/mlflow.db"
    run_ids = [open_run(uri, "tiny", f"tiny-{number}", {}, {}) for number in range(2)]
    client = open_client(uri)
    # The second value of step 1 is that of a script that started again.
    for step, accuracy in ((0, 0.5), (1, 0.25), (1, 0.75), (2, 0.625)):
        client.log_metric(run_ids[0], "eval_accuracy", accuracy, step=step)
        client.log_metric(run_ids[0], "loss", 1 - accuracy, step=step)
        client.log_metric(run_ids[0], "system/cpu", 99.0, step=step)
    for trial, run_id in zip(sweep.trials, run_ids, strict=True):
        trial.update_state(mlflow_run_id=run_id, tracking_uri=uri)
    compare = ("compare", "tiny", "--storage", storage)
    answer = cli(*compare, "--metric", "eval_accuracy", "--plot", "curves.html", "--over", "steps")
    assert (answer.code, answer.err) == (0, "curves in curves.html\n")
    assert [line.split() for line in answer.out.splitlines()] == [line.split() for line in COMPARED.splitlines()]
    assert "tiny/0: last 0.625 at step 2." in Path("curves.html").read_text()
    unknown = cli(*compare, "--metric", "accuracy")
    assert unknown.err == "no job has logged accuracy; there are eval_accuracy, loss, time.\n"
    sweep.trial(0).update_state(mlflow_run_id="0" * 32)
    answer = cli(*compare)
    assert answer.code == 0
    assert answer.err.startswith("what scripts have logged is not shown: MLflow at sqlite:")
