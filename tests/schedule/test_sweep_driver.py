"""A sweep of trials with drivers of their own: who runs when, what becomes of each, and what another driver finds."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from schedule.history_here import HistoryHere

from orchestrator.core.errors import JOB_FAILED, STOPPED, SUCCESS
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.launch.trials import prepare_trials, requeue_trials
from orchestrator.schedule import trial_driver
from orchestrator.schedule.sweep_driver import SweepDriver
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import dump_resolved
from orchestrator.tracking.client import open_client
from orchestrator.tracking.run import open_run

HERE = Path(__file__).parent
Prepare = Callable[..., tuple[RunDirectory, JobSpec]]
ASHA = {"rule": "asha", "metric": "loss", "first": {"samples": 30}, "reduction_factor": 2}


@pytest.fixture(scope="module")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trial_driver, "DRIVER_MODULE", "standin_trial_driver")
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def prepare(migrated_database: Path, tmp_path: Path) -> Prepare:
    def make(*does: str, **trials: Any) -> tuple[RunDirectory, JobSpec]:
        uri = f"sqlite:///{shutil.copy(migrated_database, tmp_path / 'mlflow.db')}"
        spec = JobSpec.model_validate(
            {
                "name": "tiny",
                "recipe": {"target": "tiny.py:Digits"},
                "train": {"steps": 3},
                "retries": {"infrastructure": 1},
                "tracking": {"uri": uri},
                "sweep": {"zip": {"recipe.args.does": list(does), "train.seed": [*range(len(does))]}},
                "trials": trials,
            }
        )
        job = RunDirectory(tmp_path / "runs" / "tiny")
        job.code.mkdir(parents=True)
        job.resolved_spec.write_text(dump_resolved(spec), encoding="utf-8")
        job.update_state(phase="queued", attempts=0, created_at=time.time(), mlflow_run_id=None)
        prepare_trials(job, spec)
        return job, spec

    return make


def drive(job: RunDirectory, spec: JobSpec) -> int:
    return SweepDriver(job, spec, embedded=False).run(HistoryHere(spec, job))


def states(job: RunDirectory) -> list[dict[str, Any]]:
    return [trial.read_state() for trial in job.trials]


def phases(job: RunDirectory) -> list[str]:
    return [state["phase"] for state in states(job)]


def events(job: RunDirectory, name: str) -> list[dict[str, Any]]:
    return [event for event in read_json_lines(job.events_file) if event["event"] == name]


def once(condition: Callable[[], object], then: Callable[[], object]) -> threading.Thread:
    """Do something from outside when something is so."""

    def wait() -> None:
        while not condition():
            time.sleep(0.02)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_all_trials_are_trained_in_their_order_one_at_a_time(prepare: Prepare) -> None:
    job, spec = prepare("train", "train", "train")
    assert drive(job, spec) == SUCCESS
    assert phases(job) == ["succeeded"] * 3
    spans = [(state["started_at"], state["finished_at"]) for state in states(job)]
    assert all(first[1] < second[0] for first, second in pairwise(spans))
    state = job.read_state()
    assert (state["phase"], state["message"]) == ("succeeded", "3 of 3 trials ended (3 finished)")
    assert (state["attempts"], state["step"], state["exit_code"]) == (1, None, 0)
    assert [event["trial"] for event in events(job, "trial_started")] == [0, 1, 2]
    assert events(job, "trial_started")[1]["sets"] == 'recipe.args.does = "train", train.seed = 1'
    assert "train ['--watch-parent'] None" in job.trial(0).driver_log.read_text()


def test_no_more_than_so_many_run_at_the_same_time(prepare: Prepare) -> None:
    job, spec = prepare("wait", "wait", "wait", concurrent=2)
    running: list[list[str]] = []

    def two_run() -> bool:
        running.append(phases(job))
        return phases(job).count("running") == 2

    once(two_run, lambda: (time.sleep(0.5), running.append(phases(job)), job.stop_file.touch()))
    assert drive(job, spec) == STOPPED
    assert running[-1] == ["running", "running", "queued"]
    assert phases(job) == ["stopped"] * 3
    assert [state.get("reason") for state in states(job)] == ["stop_requested", "stop_requested", "not_started"]
    assert (job.read_state()["phase"], job.read_state()["message"]) == ("stopped", "0 of 3 trials ended")
    assert not any((directory.root / "stop_requested").exists() for directory in (job, *job.trials))


def test_a_trial_that_fails_is_named_and_the_others_go_on(prepare: Prepare) -> None:
    job, spec = prepare("fail", "die", "train")
    assert drive(job, spec) == JOB_FAILED
    assert phases(job) == ["failed", "failed", "succeeded"]
    assert states(job)[1]["message"] == "its driver was ended by SIGKILL and without a last word"
    assert (job.read_state()["reason"], job.read_state()["message"]) == (
        "trials_failed",
        '2 of 3 trials failed: trial 0 (recipe.args.does = "fail", train.seed = 0): no such thing; '
        'trial 1 (recipe.args.does = "die", train.seed = 1): its driver was ended by SIGKILL and without a last word',
    )


def test_a_trial_whose_driver_is_killed_goes_on_from_the_budget_for_that(prepare: Prepare) -> None:
    job, spec = prepare("die_once", "train")
    assert drive(job, spec) == SUCCESS
    assert phases(job) == ["succeeded", "succeeded"]
    state = states(job)[0]
    assert (state["attempts"], state["retries_used"]) == (2, {"infrastructure": 1})
    (restarting,) = (event for event in read_json_lines(job.trial(0).events_file) if event["event"] == "restarting")
    assert restarting["message"] == "its driver was ended by SIGKILL and without a last word"
    assert (restarting["cause"], restarting["budget"]) == ("infrastructure", "retries.infrastructure 1 of 1")
    assert [event["trial"] for event in events(job, "trial_started")] == [0, 0, 1], "in the place that it had"
    assert [event["trial"] for event in events(job, "trial_ended")] == [0, 1]


def test_a_trial_whose_driver_is_killed_again_and_again_fails(prepare: Prepare) -> None:
    job, spec = prepare("die")
    assert drive(job, spec) == JOB_FAILED
    state = states(job)[0]
    assert (state["phase"], state["reason"], state["attempts"]) == ("failed", "driver_lost", 2)
    told = [(event["event"], event.get("budget")) for event in read_json_lines(job.trial(0).events_file)]
    used = "retries.infrastructure 1 of 1"
    assert told == [("restarting", used), ("gave_up", used), ("failed", None)]


def test_what_earlier_lives_took_from_the_budget_is_not_given_again(prepare: Prepare) -> None:
    job, spec = prepare("die_once")
    job.trial(0).update_state(retries_used={"infrastructure": 1, "worker_lost": 2})
    assert drive(job, spec) == JOB_FAILED
    assert states(job)[0]["retries_used"] == {"infrastructure": 1, "worker_lost": 2}


def test_a_driver_that_dies_when_its_trial_is_to_stop_is_not_replaced(prepare: Prepare) -> None:
    job, spec = prepare("train", "bad_die", "wait_die", early_stopping=ASHA)
    once(lambda: phases(job)[2] == "running", job.stop_file.touch)
    assert drive(job, spec) == STOPPED
    assert phases(job) == ["succeeded", "stopped", "stopped"]
    assert [state["reason"] for state in states(job)[1:]] == ["pruned", "driver_lost"]
    assert states(job)[1]["message"].startswith("stopped early by asha: loss 9")


def test_a_sweep_that_was_taken_over_leaves_its_trials_alone(prepare: Prepare) -> None:
    job, spec = prepare("wait", "train")

    def take_over() -> None:
        job.update_state(driver={"host": "elsewhere", "pid": 1, "started": 0.0})
        os.kill(states(job)[0]["driver"]["pid"], signal.SIGKILL)

    once(lambda: job.read_state()["phase"] == "running", take_over)
    assert drive(job, spec) == JOB_FAILED
    assert (job.read_state()["phase"], job.read_state()["driver"]["host"]) == ("running", "elsewhere")
    assert phases(job) == ["running", "queued"]
    assert states(job)[0]["attempts"] == 1


def test_of_many_that_fail_three_are_named(prepare: Prepare) -> None:
    job, spec = prepare(*["fail"] * 5, concurrent=5)
    assert drive(job, spec) == JOB_FAILED
    assert job.read_state()["message"].count("no such thing") == 3
    assert job.read_state()["message"].endswith("; and 2 more")


def test_who_is_behind_is_stopped_and_the_sweep_succeeds(prepare: Prepare) -> None:
    job, spec = prepare("train", "bad", "train", early_stopping=ASHA)
    assert drive(job, spec) == SUCCESS
    assert phases(job) == ["succeeded", "stopped", "succeeded"]
    message = "stopped early by asha: loss 9 after 30 samples, others are ahead"
    assert (states(job)[1]["reason"], states(job)[1]["message"]) == ("pruned", message)
    assert job.read_state()["message"] == "3 of 3 trials ended (2 finished, 1 stopped early)"
    assert [(event["trial"], event["message"]) for event in events(job, "pruned")] == [(1, message)]


def test_a_stopped_sweep_goes_on_with_what_is_left(prepare: Prepare) -> None:
    job, spec = prepare("train", "bad", "wait", "train", early_stopping=ASHA)
    once(lambda: phases(job)[2] == "running", job.stop_file.touch)
    assert drive(job, spec) == STOPPED
    assert phases(job) == ["succeeded", "stopped", "stopped", "stopped"]
    before = states(job)
    requeue_trials(job, spec)
    assert phases(job) == ["succeeded", "stopped", "queued", "queued"]
    assert drive(job, spec) == SUCCESS
    assert phases(job) == ["succeeded", "stopped", "succeeded", "succeeded"]
    assert states(job)[:2] == before[:2], "what was over stays as it was"
    assert [state["attempts"] for state in states(job)] == [1, 1, 2, 1]
    assert job.read_state()["attempts"] == 2


def test_what_was_decided_before_a_crash_is_decided_again(prepare: Prepare) -> None:
    """The driver died between its decision and the trial's end: the trial is not trained on."""
    job, spec = prepare("train", "bad", early_stopping=ASHA)
    assert drive(job, spec) == SUCCESS
    uri = str(spec.tracking.uri)
    run_id = open_run(uri, "tiny", "tiny-1", {}, {})
    job.trial(1).update_state(phase="queued", reason=None, finished_at=None, mlflow_run_id=run_id)
    assert drive(job, spec) == SUCCESS
    state = states(job)[1]
    assert (state["phase"], state["reason"], state["attempts"]) == ("stopped", "pruned", 1)
    assert open_client(uri).get_run(run_id).info.status == "KILLED"


def test_a_second_interrupt_ends_everything_at_once(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    job, spec = prepare("wait", "wait")
    driver = SweepDriver(job, spec, embedded=False)
    pids: list[int] = []

    def interrupt_twice() -> None:
        """Between two looks at the trials, so that the first has no time to notice."""
        if phases(job)[0] == "running":
            pids.append(states(job)[0]["driver"]["pid"])
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(driver, "_note", interrupt_twice)
    assert driver.run(HistoryHere(spec, job)) == STOPPED
    assert (job.read_state()["phase"], job.read_state()["reason"]) == ("stopped", "aborted")
    assert [state["reason"] for state in states(job)] == ["aborted", "not_started"]
    assert not psutil.pid_exists(pids[0])


def test_mlflow_has_a_run_of_the_sweep_with_its_lists(prepare: Prepare) -> None:
    job, spec = prepare("train")
    assert drive(job, spec) == SUCCESS
    run = open_client(str(spec.tracking.uri)).get_run(job.read_state()["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["sweep.zip.recipe.args.does"] == '["train"]'
    assert states(job)[0]["mlflow_parent_run_id"] == run.info.run_id


@pytest.mark.parametrize(
    ("workers", "running", "has_room"),
    [(2, [], True), (2, [0], True), (2, [0, 1], False), (9, [], True), (9, [0], False)],
)
def test_a_private_node_takes_what_fits_beside_those_that_run(
    prepare: Prepare, workers: int, running: list[int], has_room: bool
) -> None:
    job, spec = prepare("train", "train", "train")
    driver = SweepDriver(job, spec, embedded=True)
    driver._node = {"CPU": 4.0}
    resources = spec.resources.model_copy(update={"workers": 2})
    driver._specs = tuple(trial.model_copy(update={"resources": resources}) for trial in driver._specs[:2])
    wanted = spec.model_copy(update={"resources": spec.resources.model_copy(update={"workers": workers})})
    driver._specs = (*driver._specs, wanted)
    driver._running = dict.fromkeys(running)  # type: ignore[assignment]  # only who runs is asked
    assert driver._has_room_for(2) is has_room
