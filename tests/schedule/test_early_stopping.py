"""Which trials are stopped early, from what stands in their files: in the order of time, and again after a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule.early_stopping import Judge, Measurement, MetricReader
from orchestrator.spec.methods.early_stopping import EarlyStopping

ASHA = {"rule": "asha", "first": {"steps": 10}, "reduction_factor": 2}
MEDIAN = {"rule": "median", "first": {"samples": 100}, "finished_trials": 2}


@pytest.fixture
def trials(tmp_path: Path) -> list[RunDirectory]:
    found = [RunDirectory(tmp_path / str(number)) for number in range(4)]
    for trial in found:
        trial.root.mkdir()
        trial.update_state(phase="running")
    return found


def judge(trials: list[RunDirectory], fields: dict[str, Any]) -> Judge:
    return Judge(EarlyStopping.model_validate(fields), trials)


def log(trial: RunDirectory, time: float, step: int, *, size: int = 10, **metrics: Any) -> None:
    line = {"step": step, "time": time, "samples": size * step, "loss": 1.0, **metrics}
    with trial.metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def evaluate(trial: RunDirectory, time: float, step: int, loss: float | str, *, size: int = 10) -> None:
    log(trial, time, step, size=size, **{"eval/loss": loss})


def end(trial: RunDirectory, time: float, phase: str, reason: str | None = None) -> None:
    trial.update_state(phase=phase, reason=reason, finished_at=time)


def verdicts(trials: list[RunDirectory], fields: dict[str, Any]) -> dict[int, str]:
    found = judge(trials, fields)
    found.look()
    return found.verdicts


# ASHA


def test_who_is_not_among_the_best_that_came_as_far_is_stopped(trials: list[RunDirectory]) -> None:
    for number, loss in enumerate((0.5, 0.9, 0.4, 0.45)):
        evaluate(trials[number], time=number, step=10, loss=loss)
    # The first is the best so far, the third too; the fourth is one of the best two of four.
    assert list(verdicts(trials, ASHA)) == [1]
    assert verdicts(trials, ASHA)[1] == "stopped early by asha: eval/loss 0.9 after 10 steps, others are ahead"


def test_nobody_is_stopped_before_the_first_comparison(trials: list[RunDirectory]) -> None:
    for number in range(4):
        evaluate(trials[number], time=number, step=9, loss=number)
    assert verdicts(trials, ASHA) == {}


def test_only_the_places_that_grow_by_the_factor_count(trials: list[RunDirectory]) -> None:
    for time, step in enumerate((10, 15, 20, 30, 40)):
        evaluate(trials[0], time=time, step=step, loss=0.1)
    # As good at 10 steps, and far behind at 15, which is no place; at 20 it is compared again.
    evaluate(trials[1], time=5, step=10, loss=0.05)
    evaluate(trials[1], time=6, step=15, loss=9.0)
    assert verdicts(trials, ASHA) == {}
    evaluate(trials[1], time=7, step=20, loss=9.0)
    assert "after 20 steps" in verdicts(trials, ASHA)[1]


def test_large_values_may_be_good(trials: list[RunDirectory]) -> None:
    fields = {**ASHA, "metric": "eval/accuracy", "mode": "max"}
    for number, accuracy in enumerate((0.5, 0.9, 0.1)):
        log(trials[number], number, 10, **{"eval/accuracy": accuracy})
    assert list(verdicts(trials, fields)) == [2]


def test_what_is_not_a_number_is_behind_everything(trials: list[RunDirectory]) -> None:
    evaluate(trials[0], time=0, step=10, loss="NaN")
    assert list(verdicts(trials, ASHA)) == [0]


def test_samples_compare_batches_of_different_sizes(trials: list[RunDirectory]) -> None:
    fields = {**ASHA, "first": {"samples": 100}}
    evaluate(trials[0], time=0, step=10, loss=0.5)
    evaluate(trials[1], time=1, step=10, loss=0.9, size=5)
    assert verdicts(trials, fields) == {}, "it has seen half as many"
    evaluate(trials[1], time=2, step=20, loss=0.9, size=5)
    assert "after 100 samples" in verdicts(trials, fields)[1]


# The median


def finish(trial: RunDirectory, time: float, losses: tuple[float, ...]) -> None:
    for place, loss in enumerate(losses, 1):
        evaluate(trial, time=time + place, step=10 * place, loss=loss)
    end(trial, time + len(losses) + 1, "succeeded")


def test_the_median_is_of_finished_trials_at_the_same_place(trials: list[RunDirectory]) -> None:
    finish(trials[0], 0, (0.5, 0.3))
    evaluate(trials[2], time=5, step=10, loss=0.9)
    assert verdicts(trials, MEDIAN) == {}, "one has finished, and two must have"
    finish(trials[1], 10, (0.7, 0.1))
    evaluate(trials[3], time=20, step=10, loss=0.65)
    assert verdicts(trials, MEDIAN) == {3: verdicts(trials, MEDIAN)[3]}
    assert verdicts(trials, MEDIAN)[3].endswith("the median of finished trials is better")
    # It came there before the second had finished; at the next place its best value counts.
    evaluate(trials[2], time=21, step=20, loss=0.15)
    assert 2 not in verdicts(trials, MEDIAN)


def test_places_are_those_of_the_first_values_at_or_after_them(trials: list[RunDirectory]) -> None:
    finish(trials[0], 0, (0.5, 0.3))
    finish(trials[1], 10, (0.5, 0.3))
    for step, loss in ((9, 9.0), (12, 0.4), (15, 0.39), (19, 0.39), (21, 0.39)):
        evaluate(trials[2], time=20 + step, step=step, loss=loss)
    assert "after 210 samples" in verdicts(trials, MEDIAN)[2]


def test_trials_that_failed_or_were_stopped_are_not_compared_with(trials: list[RunDirectory]) -> None:
    finish(trials[0], 0, (0.1, 0.1))
    finish(trials[1], 10, (0.1, 0.1))
    end(trials[0], 9, "failed")
    end(trials[1], 19, "stopped", "pruned")
    evaluate(trials[2], time=20, step=10, loss=5.0)
    assert verdicts(trials, MEDIAN) == {}


# Files that grow, and a driver that takes over


def test_a_judge_that_takes_over_decides_as_one_that_was_there_all_the_time(trials: list[RunDirectory]) -> None:
    watching = judge(trials, ASHA)
    for time, (number, step, loss) in enumerate(
        [(0, 10, 0.5), (1, 10, 0.6), (2, 10, 0.4), (0, 20, 0.4), (2, 20, 0.39), (3, 10, 0.41), (3, 20, 0.5)]
    ):
        evaluate(trials[number], time=time, step=step, loss=loss)
        watching.look()
        assert verdicts(trials, ASHA) == watching.verdicts
    assert set(watching.verdicts) == {1, 3}


def test_a_verdict_stands(trials: list[RunDirectory]) -> None:
    evaluate(trials[0], time=0, step=10, loss=0.5)
    evaluate(trials[1], time=1, step=10, loss=0.6)
    evaluate(trials[1], time=2, step=20, loss=0.1)  # it had not noticed yet
    evaluate(trials[0], time=3, step=20, loss=0.4)
    assert list(verdicts(trials, ASHA)) == [1], "nobody is compared with what it came to afterwards"


def test_a_trial_that_was_stopped_by_a_person_goes_on_to_be_compared(trials: list[RunDirectory]) -> None:
    evaluate(trials[0], time=0, step=10, loss=0.5)
    end(trials[1], 1, "stopped", "stop_requested")
    found = judge(trials, ASHA)
    found.look()
    trials[1].update_state(phase="running", reason=None, finished_at=None)
    evaluate(trials[1], time=2, step=10, loss=0.6)
    found.look()
    assert list(found.verdicts) == [1]


def test_steps_that_are_taken_again_are_read_once(trials: list[RunDirectory]) -> None:
    trial = trials[0]
    reader = MetricReader(0, trial.metrics_file, "eval/loss", "step")
    assert list(reader.new()) == []
    evaluate(trial, 1, 10, 0.5)
    log(trial, 2, 11)
    evaluate(trial, 3, 20, 0.4)
    assert list(reader.new()) == [Measurement(0, 1, 10, 0.5), Measurement(0, 3, 20, 0.4)]
    assert list(reader.new()) == []
    with trial.metrics_file.open("ab") as stream:
        stream.write(b'{"step": 30, "time": 4, "eval/loss": 0.3')
    assert list(reader.new()) == [], "half a line"
    # The attempt after a crash cuts the file and goes on from step 10.
    lines = trial.metrics_file.read_bytes().splitlines(keepends=True)
    fresh = trial.root / "fresh"
    fresh.write_bytes(lines[0])
    fresh.replace(trial.metrics_file)
    evaluate(trial, 5, 20, 0.41)
    evaluate(trial, 6, 30, 0.31)
    assert list(reader.new()) == [Measurement(0, 6, 30, 0.31)]


def test_damaged_lines_are_passed_over(trials: list[RunDirectory]) -> None:
    trials[0].metrics_file.write_text('"eval/loss"\n{"eval/loss": []}\n{"eval/loss": 1, "step": 3}\n')
    evaluate(trials[0], 1, 10, 0.5)
    reader = MetricReader(0, trials[0].metrics_file, "eval/loss", "step")
    assert list(reader.new()) == [Measurement(0, 1, 10, 0.5)]
