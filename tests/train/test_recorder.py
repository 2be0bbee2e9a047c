"""One line per logged step, read a step late, in the order of the steps."""

import pytest
import torch
from support import ListTracker

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.train.recorder import MAX_NON_FINITE_STEPS, Recorder


def make(tracker: ListTracker, **arguments) -> Recorder:
    defaults = {"log_every": 1, "stop_requested": lambda: False, "tolerate_overflow": False}
    return Recorder(tracker, Collectives(), **{**defaults, **arguments})


def record(recorder: Recorder, step: int, loss: float = 1.0) -> None:
    recorder.record(step, {"loss": torch.tensor(loss)}, {"lr": 0.5, "samples": step * 10})


def test_evaluation_joins_the_line_of_its_step() -> None:
    tracker = ListTracker()
    recorder = make(tracker)
    record(recorder, 1)
    recorder.add({"eval/loss": 3.0})
    record(recorder, 2)
    recorder.flush()
    assert tracker.lines == [
        {"step": 1, "loss": 1.0, "lr": 0.5, "samples": 10, "eval/loss": 3.0},
        {"step": 2, "loss": 1.0, "lr": 0.5, "samples": 20},
    ]
    recorder.flush(always=True)
    assert len(tracker.lines) == 2  # nothing is logged twice


def test_between_two_lines_only_evaluations_and_the_last_step_are_logged() -> None:
    tracker = ListTracker()
    recorder = make(tracker, log_every=3)
    for step in range(1, 8):
        record(recorder, step)
        if step == 4:
            recorder.add({"eval/loss": 1.0})
    recorder.flush(always=True)
    assert [line["step"] for line in tracker.lines] == [3, 4, 6, 7]


def test_a_stop_is_seen_one_step_later() -> None:
    asked = []
    recorder = make(ListTracker(), stop_requested=lambda: bool(asked))
    record(recorder, 1)
    asked.append(True)
    record(recorder, 2)
    assert not recorder.stopping
    record(recorder, 3)
    assert recorder.stopping


def test_a_loss_that_is_not_finite_is_logged_and_ends_the_training() -> None:
    tracker = ListTracker()
    recorder = make(tracker)
    record(recorder, 1, float("nan"))
    with pytest.raises(RecipeError, match="loss is nan at step 1"):
        recorder.flush()
    assert len(tracker.lines) == 1


def test_loss_scaling_gets_some_steps_to_adapt() -> None:
    recorder = make(ListTracker(), tolerate_overflow=True)
    for step in range(1, MAX_NON_FINITE_STEPS + 1):
        record(recorder, step, float("inf"))
    record(recorder, MAX_NON_FINITE_STEPS + 1, 1.0)  # and a finite one starts the count anew
    for step in range(MAX_NON_FINITE_STEPS + 2, 2 * MAX_NON_FINITE_STEPS + 3):
        record(recorder, step, float("inf"))
    with pytest.raises(RecipeError, match="loss is inf"):
        recorder.flush()
