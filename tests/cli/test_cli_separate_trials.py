"""What the commands show of a sweep whose trials have workers of their own."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import SPEC, Command
from cli.page_jobs import STARTED_AT, write_event

from orchestrator.cli.follow import Evaluation, Follower, Progress
from orchestrator.cli.frames import WatchedJob
from orchestrator.cli.jobs import progress_of
from orchestrator.cli.notices import Notice
from orchestrator.cli.report import line_of
from orchestrator.cli.result import emit_result
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare
from orchestrator.launch.processes import this_process
from orchestrator.spec.load import load_spec

SWEEP = "sweep: {optimizer.lr: [0.1, 0.2, 0.4]}\ntrials: {concurrent: 2}\n"


@pytest.fixture
def run(spec: Path, storage: Path) -> RunDirectory:
    spec.write_text(SPEC + SWEEP)
    run = prepare(load_spec(spec), storage).run_directory
    run.update_state(phase="running", driver=this_process(), started_at=time.time() - 5, attempts=1)
    return run


def start(trial: RunDirectory, steps: int = 20) -> None:
    trial.update_state(phase="running", attempts=1)
    trial.event("started", {"step": 0, "workers": 1, "total_steps": steps, "total_samples": 10 * steps})


def log(trial: RunDirectory, step: int, **metrics: Any) -> None:
    line = {"step": step, "time": STARTED_AT, "samples": 10 * step, "loss": 1.0, "samples_per_s": 100.0, **metrics}
    with trial.metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def end(trial: RunDirectory, phase: str, reason: str | None = None, message: str = "") -> None:
    trial.update_state(phase=phase, reason=reason, message=message)
    trial.event(phase, {"reason": reason, "message": message})


def test_what_trials_do_is_told(run: RunDirectory) -> None:
    follower = Follower(run)
    follower.poll()
    run.event("trial_started", {"trial": 0, "sets": "optimizer.lr = 0.1"})
    for number, step in ((0, 8), (1, 3)):
        start(run.trial(number))
        log(run.trial(number), step, **({"eval/loss": 0.5} if number else {}))
    told = follower.poll()
    assert told[0] == Notice("trial 0 starts: optimizer.lr = 0.1")
    assert told[1] == Evaluation(3, {"eval/loss": 0.5}, trial=1)
    assert line_of(told[-1]) == "2 trials, the slowest at step 3/20  2 s left"
    end(run.trial(1), "stopped", "pruned", "stopped early by asha: eval/loss 2.5")
    run.event("trial_ended", {"trial": 1, "phase": "stopped", "reason": "pruned", "message": "behind", "step": 3})
    log(run.trial(0), 12)
    ended, progress = follower.poll()
    assert ended == Notice("trial 1 pruned: behind")
    assert line_of(progress) == "1 trial at step 12/20  1 s left"
    run.event("trial_ended", {"trial": 0, "phase": "failed", "reason": "user_error", "message": "oh", "step": 9})
    assert follower.poll() == [Notice("trial 0 failed: oh", "warning")]


def test_a_trial_that_is_over_holds_up_nothing(run: RunDirectory) -> None:
    for number, step in ((0, 20), (1, 3), (2, 9)):
        start(run.trial(number))
        log(run.trial(number), step)
    end(run.trial(0), "succeeded")
    end(run.trial(1), "stopped", "pruned")
    progress = progress_of(run)
    assert progress is not None
    assert (progress.metrics["step"], progress.left_s) == (9, None)
    row = WatchedJob(run).look()
    assert isinstance(row.progress, Progress)
    assert (row.progress.metrics["step"], row.progress.left_s, row.num_trials) == (9, None, 1)


def finished(run: RunDirectory) -> None:
    for number, loss in enumerate((0.5, 2.5, 0.25)):
        start(run.trial(number))
        log(run.trial(number), 20, **{"eval/loss": loss})
        run.trial(number).model_file.touch()
        end(run.trial(number), "succeeded")
    run.trial(1).model_file.unlink()
    end(run.trial(1), "stopped", "pruned")


def test_the_result_names_the_best_trial(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    finished(run)
    run.update_state(phase="succeeded", finished_at=time.time())
    emit_result(run)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "best: trial 2 (optimizer.lr = 0.4): eval/loss 0.25"
    assert [line.split()[:3] for line in lines[-5:-1]] == [
        ["TRIAL", "optimizer.lr", "PHASE"],
        ["0", "0.1", "succeeded"],
        ["1", "0.2", "pruned"],
        ["2", "0.4", "succeeded"],
    ]


def test_what_is_best_is_what_early_stopping_compares(
    spec: Path, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "{rule: asha, metric: loss, mode: max, first: {steps: 5}}"
    spec.write_text(f"{SPEC}{SWEEP}".replace("concurrent: 2", f"early_stopping: {rule}"))
    run = prepare(load_spec(spec), storage).run_directory
    finished(run)
    log(run.trial(0), 20, loss=7.0, **{"eval/loss": 0.5})
    run.update_state(phase="succeeded", finished_at=time.time())
    emit_result(run)
    assert capsys.readouterr().out.splitlines()[-1] == "best: trial 0 (optimizer.lr = 0.1): loss 7"


def test_a_failed_trial_s_log_explains_the_failure(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    run.logs.mkdir(exist_ok=True)
    run.driver_log.write_text("nothing of interest\n")
    trial = run.trial(1)
    trial.rank_log(1, 0).parent.mkdir(parents=True)
    trial.rank_log(1, 0).write_text("ValueError: the digits are blurred\n")
    trial.event("gave_up", {"cause": "user_error", "rank": 0, "message": "blurred", "budget": "0 of 0"})
    trial.update_state(phase="failed", attempts=1)
    run.update_state(phase="failed", message="1 of 3 trials failed", finished_at=time.time())
    emit_result(run)
    assert f"the last lines of {trial.rank_log(1, 0)}:\n    ValueError: the digits" in capsys.readouterr().err


def test_logs_of_one_trial(cli: Command, run: RunDirectory, storage: Path) -> None:
    log_file = run.trial(1).rank_log(1, 0)
    log_file.parent.mkdir(parents=True)
    log_file.write_text("hello\n")
    assert cli("logs", "tiny", "--trial", 1, "--storage", storage).out == "hello\n"
    assert "no rank of tiny --trial 0 has a log" in cli("logs", "tiny", "--trial", 0, "--storage", storage).err
    assert "`orchestrator logs tiny --trial 0` shows those" in cli("logs", "tiny", "--storage", storage).err
    answer = cli("logs", "tiny", "--trial", 3, "--storage", storage)
    assert (answer.code, answer.err) == (2, "error: --trial: tiny has no trial 3; there are 0 to 2.\n")


def test_logs_of_a_trial_that_is_none(cli: Command, spec: Path, storage: Path) -> None:
    prepare(load_spec(spec), storage)
    assert "--trial: tiny is no sweep" in cli("logs", "tiny", "--trial", 0, "--storage", storage).err
    spec.write_text(f"{SPEC}exchange: coded\nresources: {{workers: 2}}\nsweep: {{train.seed: [0, 1]}}\nname: coded\n")
    spec.write_text(spec.read_text().replace("name: tiny\n", ""))
    prepare(load_spec(spec), storage)
    assert "share their workers; leave --trial out" in cli("logs", "coded", "--trial", 0, "--storage", storage).err


def test_the_queue_has_an_entry_for_each_trial(cli: Command, run: RunDirectory, storage: Path) -> None:
    entry = {"priority": 0, "owner": "ann", "workers": 1, "gpus": 0.0, "cpus": 1.0}
    run.trial(0).update_state(phase="running", queue={**entry, "position": 0})
    run.trial(1).update_state(phase="queued", message="needs 1 CPU, 0 free", queue={**entry, "position": 2})
    jobs = json.loads(cli("queue", "--storage", storage, "--json").out)["jobs"]
    assert [(job["name"], job["position"], job["reason"]) for job in jobs] == [
        ("tiny-0", 0, None),
        ("tiny-1", 2, "needs 1 CPU, 0 free"),
    ]


def test_plan_and_check_say_how_trials_are_run(cli: Command, spec: Path, storage: Path) -> None:
    spec.write_text(SPEC + SWEEP)
    out = cli("plan", spec, "--storage", storage).out
    assert re.search(r"^sweep +3 trials with workers of their own, 2 at a time$", out, re.MULTILINE)
    assert "models like trial 0's" not in out
    assert "is in order, a sweep of 3 trials" in cli("check", spec).out


def test_the_page_adds_up_what_all_trials_cost(cli: Command, run: RunDirectory, storage: Path) -> None:
    for number in (0, 2):
        write_event(run.trial(number), STARTED_AT, "placed", attempt=1, workers=2)
        write_event(run.trial(number), STARTED_AT + 1800, "succeeded", reason=None, message="finished 60 steps")
        log(run.trial(number), 20)
    run.update_state(phase="succeeded", finished_at=time.time())
    assert cli("report", "tiny", "--storage", storage).code == 0
    page = run.report_file.read_text()
    assert "<dt>cost</dt><dd>2 worker-hours</dd>" in page
    assert "<td>trial 2, 1</td>" in page
