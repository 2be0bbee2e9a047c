"""What the follower tells of a run directory that grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.follow import Evaluation, Follower, PhaseChange, Progress, time_left_s
from orchestrator.core.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    (tmp_path / "job").mkdir()
    return RunDirectory(tmp_path / "job")


def log(run: RunDirectory, **line: Any) -> None:
    with run.metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def step(number: int, samples_per_s: float = 100.0) -> dict[str, Any]:
    return {"step": number, "samples": 10 * number, "loss": 1.0, "global_size": 10, "samples_per_s": samples_per_s}


def test_phases_come_once_and_an_end_comes_last(run: RunDirectory) -> None:
    follower = Follower(run)
    assert follower.poll() == []
    run.update_state(phase="queued", message="")
    assert follower.poll() == [PhaseChange("queued", "")]
    assert follower.poll() == []
    run.update_state(phase="running", message="", total_steps=2)
    log(run, **step(1))
    first, second = follower.poll()
    assert first == PhaseChange("running", "")
    assert isinstance(second, Progress)
    log(run, **step(2))
    run.update_state(phase="succeeded", message="done")
    *earlier, last = follower.poll()
    assert [type(update) for update in earlier] == [Progress]
    assert last == PhaseChange("succeeded", "done")
    assert follower.is_finished


def test_many_new_steps_are_one_progress(run: RunDirectory) -> None:
    follower = Follower(run)
    run.update_state(phase="running", total_steps=100)
    follower.poll()
    for number in range(1, 41):
        log(run, **step(number))
    (progress,) = follower.poll()
    assert isinstance(progress, Progress)
    assert (progress.step, progress.total_steps) == (40, 100)
    assert progress.left_s == pytest.approx(60 * 10 / 100)


def test_evaluations_are_told_each(run: RunDirectory) -> None:
    follower = Follower(run)
    log(run, **step(5), **{"eval/loss": 0.5, "eval/accuracy": 0.9})
    log(run, step=10, **{"eval/loss": 0.25})
    progress, first, second = follower.poll()
    assert isinstance(progress, Progress)
    assert first == Evaluation(5, None, {"eval/loss": 0.5, "eval/accuracy": 0.9})
    assert second == Evaluation(10, None, {"eval/loss": 0.25})


def test_a_continued_job_does_not_repeat_its_past(run: RunDirectory) -> None:
    log(run, **step(1))
    run.event("resumed", {"step": 1})
    follower = Follower(run, skip_existing=True)
    assert follower.poll() == []
    log(run, **step(2))
    (progress,) = follower.poll()
    assert isinstance(progress, Progress)
    assert progress.step == 2


def test_time_left_is_by_the_median_rate() -> None:
    lines = [step(1, 1.0), step(2, 100.0), step(3, 100.0)]
    assert time_left_s(lines, 13) == pytest.approx(1.0)


@pytest.mark.parametrize(("lines", "total_steps"), [([], 10), ([step(1)], None), ([{"step": 1, "loss": 1.0}], 10)])
def test_time_left_is_unknown_without_rate_or_length(lines: list[dict[str, Any]], total_steps: int | None) -> None:
    assert time_left_s(lines, total_steps) is None


def test_time_left_is_never_negative() -> None:
    assert time_left_s([step(12)], 10) == 0
