"""What the follower tells of a run directory that grows, and in which words."""

import json
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.cli.follow import Evaluation, Follower, Length, PhaseChange, Progress, time_left_s
from orchestrator.cli.notices import WORDS, Notice, notice_of
from orchestrator.cli.report import LINE_EVERY_S, PlainReport, line_of
from orchestrator.core.run_directory import RunDirectory

PACKAGE = Path(orchestrator.__file__).parent


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    (tmp_path / "job").mkdir()
    return RunDirectory(tmp_path / "job")


def log(run: RunDirectory, **line: Any) -> None:
    with run.metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def step(number: int, samples_per_s: float = 100.0) -> dict[str, Any]:
    return {"step": number, "samples": 10 * number, "loss": 1.0, "global_size": 10, "samples_per_s": samples_per_s}


def announce(run: RunDirectory, name: str = "started", at: int = 0, total_steps: int | None = 100) -> None:
    run.event(name, {"step": at, "workers": 2, "total_steps": total_steps, "total_samples": 1000})


def test_phases_come_once_and_the_last_one_is_left_to_the_result(run: RunDirectory) -> None:
    follower = Follower(run)
    assert follower.poll() == []
    run.update_state(phase="queued")
    assert follower.poll() == [PhaseChange("queued")]
    assert follower.poll() == []
    run.update_state(phase="running")
    log(run, **step(1))
    first, second = follower.poll()
    assert first == PhaseChange("running")
    assert isinstance(second, Progress)
    assert not follower.is_finished
    run.update_state(phase="succeeded")
    assert follower.poll() == []
    assert follower.is_finished


def test_what_was_written_before_the_end_is_told_with_it(run: RunDirectory) -> None:
    follower = Follower(run)
    log(run, **step(1))
    run.update_state(phase="failed")
    assert len(follower.poll()) == 1
    assert follower.is_finished


def test_many_new_steps_are_one_progress(run: RunDirectory) -> None:
    follower = Follower(run)
    announce(run)
    assert follower.poll() == [Notice("training starts: 100 steps on 2 workers")]
    for number in range(1, 41):
        log(run, **step(number))
    (progress,) = follower.poll()
    assert progress == Progress(step(40), Length(100, 1000), pytest.approx(60 * 10 / 100))


def test_evaluations_are_told_each(run: RunDirectory) -> None:
    follower = Follower(run)
    log(run, **step(5), **{"eval/loss": 0.5, "eval/accuracy": 0.9})
    log(run, **step(10), **{"eval/loss": 0.25})
    first, second, progress = follower.poll()
    assert isinstance(progress, Progress)
    assert first == Evaluation(5, {"eval/loss": 0.5, "eval/accuracy": 0.9})
    assert second == Evaluation(10, {"eval/loss": 0.25})


def test_a_continued_job_does_not_repeat_its_past(run: RunDirectory) -> None:
    announce(run)
    log(run, **step(1))
    follower = Follower(run, skip_existing=True)
    assert follower.poll() == []
    announce(run, "resumed", at=1)
    log(run, **step(2))
    notice, progress = follower.poll()
    assert notice == Notice("resumed from step 1 on 2 workers")
    assert isinstance(progress, Progress)
    assert progress.metrics["step"] == 2


def test_a_line_that_a_crash_tore_is_passed_over(run: RunDirectory) -> None:
    follower = Follower(run)
    run.metrics_file.write_text('{"step": 1, "lo\n[1]\n')
    log(run, **step(2))
    (progress,) = follower.poll()
    assert isinstance(progress, Progress)
    assert progress.metrics["step"] == 2


def test_time_left_is_by_the_median_rate() -> None:
    lines = [step(1, 1.0), step(2, 100.0), step(3, 100.0)]
    assert time_left_s(lines, Length(13, 130)) == pytest.approx(1.0)


def test_time_left_without_a_number_of_steps_is_by_samples() -> None:
    assert time_left_s([step(3)], Length(None, 130)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("lines", "length"), [([], Length(10, 100)), ([step(1)], Length()), ([{"step": 1, "loss": 1.0}], Length(10, 100))]
)
def test_time_left_is_unknown_without_rate_or_length(lines: list[dict[str, Any]], length: Length) -> None:
    assert time_left_s(lines, length) is None


def test_time_left_is_not_misled_by_the_batch_of_a_later_phase() -> None:
    """7 steps of 10 samples, then others: 1,030 samples in 12 steps."""
    assert time_left_s([step(3)], Length(12, 1030)) == pytest.approx(10.0)


def test_a_change_of_phase_announces_the_length_anew(run: RunDirectory) -> None:
    follower = Follower(run)
    announce(run, total_steps=None)
    fields = {"phase": 2, "phases": 2, "step": 1, "global_size": 20, "workers": 2}
    run.event("phase", {**fields, "total_steps": 90, "total_samples": 1800})
    log(run, **step(1))
    *_, notice, progress = follower.poll()
    assert notice == Notice("phase 2 of 2 starts at step 1: 20 samples per step")
    assert isinstance(progress, Progress)
    assert progress.length == Length(90, 1800)


def test_time_left_of_a_batch_that_changes_is_by_steps() -> None:
    lines = [{**step(n), "step_s": seconds} for n, seconds in ((1, 9.0), (2, 0.5), (3, 0.5))]
    assert time_left_s(lines, Length(13, None)) == pytest.approx(5.0)
    assert Progress(lines[-1], Length(12, None)).share == 0.25
    assert notice_of({"event": "started", "workers": 1, "total_steps": None, "total_samples": None}) == Notice(
        "training starts: 1 worker"
    )


def test_time_left_is_never_negative() -> None:
    assert time_left_s([step(12)], Length(10, 100)) == 0


EVENTS: dict[str, tuple[dict[str, Any], str]] = {
    "connected": ({"cpus": 2, "oversubscribed": True}, "the workers ask for more than this machine's 2 CPU cores"),
    "queued": (
        {"position": 3, "waiting": 7, "reason": "needs 8 GPUs, 6 free; 2 jobs ahead"},
        "3 of 7 in the queue: needs 8 GPUs, 6 free; 2 jobs ahead",
    ),
    "granted": (
        {"nodes": {"a": 1, "b": 1}, "waited_s": 12.3, "backfilled": False},
        "has its place on 2 nodes after 12 s",
    ),
    "preempted": ({"by": "big (priority 5)", "step": 1234}, "makes room for big (priority 5) after step 1,234"),
    "waiting": ({"reason": "needs 4 workers"}, "waiting: needs 4 workers"),
    "resized": (
        {"from": 2, "to": 4, "why": "room for more", "step": 1234},
        "goes on with 4 workers in place of 2: room for more",
    ),
    "workers_wanted": (
        {"step": 1234, "wanted": 4, "workers": 2, "batch": 512, "noise_scale": None, "reason": "so it is"},
        "asks for 4 workers for steps of 512 samples: so it is",
    ),
    "placed": ({"attempt": 1, "script": "train.py", "workers": 2}, "train.py starts on 2 workers"),
    "started": (
        {"workers": 1, "total_steps": None, "total_samples": 60000},
        "training starts: 60,000 samples on 1 worker",
    ),
    "resumed": ({"step": 1200, "workers": 2}, "resumed from step 1,200 on 2 workers"),
    "micro_size": (
        {"micro_size": 32, "peak_bytes": 3 * 2**29, "limit_bytes": 2**31, "found_before": True},
        "micro-batches of 32 samples fit: 1.50 of 2.00 GiB, as found before",
    ),
    "phase": (
        {"phase": 2, "phases": 2, "step": 7038, "global_size": 32768, "workers": 2},
        "phase 2 of 2 starts at step 7,038: 32,768 samples per step",
    ),
    "checkpoint_saved": ({"step": 1200, "path": "x"}, "checkpoint saved at step 1,200"),
    "diverged": ({"message": "The loss is nan at step 3."}, "ends here: The loss is nan at step 3."),
    "worker_hung": ({"worker": 3, "node": "10.0.0.7", "life": 2}, "rank 3 on 10.0.0.7 does not answer and is replaced"),
    "straggler": (
        {"worker": 3, "node": "10.0.0.7", "ratio": 1.84, "since_step": 1200, "num_steps": 21},
        "rank 3 on 10.0.0.7 is slow: 1.8x the time of the others since step 1,200",
    ),
    "straggler_over": (
        {"worker": 3, "node": "10.0.0.7", "ratio": 1.5, "since_step": 1200, "num_steps": 1400},
        "rank 3 on 10.0.0.7 keeps up again after 1,400 slow steps",
    ),
    "restarting": (
        {"message": "rank 1 disappeared", "budget": "retries.worker_lost 1 of 10"},
        "rank 1 disappeared; restarting (retries.worker_lost 1 of 10)",
    ),
    "gave_up": ({"message": "x", "budget": "retries.user_error 0 of 0"}, "not restarted (retries.user_error 0 of 0)"),
    "stop_requested": ({}, "somebody asked for a stop"),
    "trial_started": ({"trial": 3, "sets": "optimizer.lr = 0.1"}, "trial 3 starts: optimizer.lr = 0.1"),
    "trial_ended": (
        {"trial": 3, "phase": "failed", "reason": "user_error", "message": "no such thing", "step": 4},
        "trial 3 failed: no such thing",
    ),
    "tracking_outage": ({"message": "refused"}, "metrics wait in the run directory: refused"),
    "tracking_restored": ({"message": "x"}, "MLflow answers again"),
    "metrics_unsent": ({"lines": 3}, "MLflow lacks 3 lines of metrics.jsonl"),
    "tracking_out_of_reach": ({"message": "MLflow at x does not answer"}, "MLflow at x does not answer"),
}


def test_the_words_of_every_event_are_tested() -> None:
    assert EVENTS.keys() == WORDS.keys()


def test_every_event_that_is_told_is_recorded_somewhere() -> None:
    sources = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "cli"]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert [name for name in WORDS if f'"{name}"' not in text] == []


@pytest.mark.parametrize("name", EVENTS)
def test_events_become_sentences(name: str) -> None:
    fields, text = EVENTS[name]
    notice = notice_of({"time": 0.0, "event": name, **fields})
    assert notice is not None
    assert text in notice.text


def test_other_events_are_only_recorded() -> None:
    assert notice_of({"event": "placed", "attempt": 1}) is None
    assert notice_of({"event": "connected", "cpus": 4, "oversubscribed": False}) is None


@pytest.mark.parametrize(
    ("update", "line"),
    [
        (PhaseChange("running"), "running"),
        (PhaseChange("placing"), "placing: waiting for the workers"),
        (Notice("resumed from step 3"), "resumed from step 3"),
        (
            Evaluation(50, {"eval/loss": 0.12345, "eval/accuracy": 0.98}),
            "step 50  eval/loss 0.1235  eval/accuracy 0.98",
        ),
        (
            Progress({**step(120, 5321.4), "lr": 0.01}, Length(300, 3000), 75.0),
            "step 120/300  loss 1  lr 0.01  5,321 samples/s  1 min 15 s left",
        ),
        (
            Progress({"step": 3, "samples": 30, "loss": "NaN"}, Length(None, 100)),
            "step 3  30% of the samples  loss nan",
        ),
        (Progress({"step": 3, "loss": 2.0}, Length()), "step 3  loss 2"),
    ],
)
def test_updates_become_lines(update: Any, line: str) -> None:
    assert line_of(update) == line


def test_lines_for_a_file_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    with PlainReport(clock=lambda: now) as report:
        for number in range(1, 100):
            report.show(Progress(step(number), Length(99, 990)))
            now += LINE_EVERY_S / 10
        report.show(Evaluation(99, {"eval/loss": 1.0}))
        report.show(PhaseChange("placing"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 + 2
    assert lines[0].startswith("step 1/99")
    assert lines[-2:] == ["step 99  eval/loss 1", "placing: waiting for the workers"]
