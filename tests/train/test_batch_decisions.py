"""A controller's decisions reach data, engine, learning rate and records, and a resumed job takes them again."""

import json
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gloo import run_on_ranks
from support import ListTracker, assert_same_weights, export_here, job_here, make_run_directory, tiny_spec

from orchestrator.core import tables
from orchestrator.core.gradient_stats import GroupNorms, RunningStatistic
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.values import BatchPlan, ControllerParts, Decision, StepStats
from orchestrator.train.job import Job
from orchestrator.train.loop import train

STEPS = 12


class Growing:
    """Doubles the batch after every third measured step, by an amount that depends on what was measured."""

    def __init__(self, parts: ControllerParts) -> None:
        self.shown: list[StepStats] = []
        self._batch = parts.spec.batch
        self._size = parts.spec.batch.global_size
        self._statistic = RunningStatistic(500.0)

    def plan(self, stats: StepStats) -> BatchPlan:
        self.shown.append(stats)
        decision = None
        if stats.gradient is not None:
            self._statistic.update(stats.gradient, stats.samples)
            if self._statistic.num_observations % 3 == 0:
                self._size = 2 * self._size + round(self._statistic.noise * 1000) % 7
                decision = self._decision()
        return BatchPlan(
            global_batch_size=self._size,
            micro_batch_size=self._batch.micro_size,
            lr_factor=self._size / self._batch.global_size,
            sample_statistic=stats.step % 2 == 0,
            decision=decision,
        )

    def _decision(self) -> Decision:
        statistic = self._statistic
        return Decision(
            batch=self._size,
            target=2.5,
            noise=statistic.noise,
            signal=statistic.signal,
            noise_scale=float("inf"),
            lr_factor=self._size / self._batch.global_size,
            reason="the third measured step",
        )

    def state_dict(self) -> dict[str, Any]:
        return {"size": self._size, "statistic": self._statistic.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._size = state["size"]
        self._statistic.load_state_dict(state["statistic"])


def prepared(
    root: Path, workers: int, like: RunDirectory | None = None, step: int = 0, **sections: Any
) -> RunDirectory:
    """A job of 12 steps that saves every 3; ``like`` is another one whose checkpoint of ``step`` it goes on from."""
    defaults = {
        "train": {"samples": 10_000},
        "batch": {"global_size": 26, "micro_size": 8, "controller": {"name": "noise_scale"}},
        "checkpoint": {"every": 3, "keep": 9},
    }
    spec = tiny_spec(resources={"workers": workers}, **{**defaults, **sections})
    directory = make_run_directory(root, spec)
    if like is not None:
        name = f"step_{step}"
        shutil.copytree(like.checkpoints / name, directory.checkpoints / name)
    return directory


def growing_job(root: str, tracker: ListTracker) -> Job:
    before = dict(tables.CONTROLLERS)
    tables.CONTROLLERS["noise_scale"] = f"{__name__}:Growing"
    try:
        return job_here(root, tracker)
    finally:
        tables.CONTROLLERS.clear()
        tables.CONTROLLERS.update(before)


def run(
    root: str, until: int | None = None
) -> tuple[list[StepStats], list[dict[str, Any]], list[tuple[str, dict[str, Any]]]]:
    """Train to the end of a step as this process's rank; what the controller was shown, metrics and events."""
    tracker = ListTracker()
    job = growing_job(root, tracker)
    job.total_steps = until or job.total_steps
    with closing(job.data):
        train(job)
    export_here(job, root)
    assert isinstance(job.controller, Growing)
    return job.controller.shown, tracker.lines, [event for event in tracker.events if event[0] == "batch"]


def test_a_measured_step_is_shown_once_when_the_step_after_the_next_is_planned(tmp_path: Path) -> None:
    shown, lines, _ = run(str(prepared(tmp_path / "job", 1).root), STEPS)
    told = [stats.step for stats in shown if stats.gradient is not None]
    assert told == [2, 4, 6, 8, 10]  # measured in the steps after 0, 2, 4, 6 and 8
    sizes = {line["step"]: line["global_size"] for line in lines}
    for stats in shown:
        if isinstance(stats.gradient, GroupNorms):
            assert stats.gradient.num_samples == sizes[stats.step - 1]
            assert stats.gradient.num_groups == -(-sizes[stats.step - 1] // 8)


def test_a_decision_changes_batch_and_rate_of_its_step_and_is_recorded_with_its_numbers(tmp_path: Path) -> None:
    _, lines, events = run(str(prepared(tmp_path / "job", 1, train={"samples": 10_000, "log_every": 100}).root), STEPS)
    (_, decided), *more = events
    assert not more
    assert decided["step"] == 7
    line = next(line for line in lines if line["step"] == 7)
    assert line["global_size"] == decided["batch"] >= 52
    assert line["lr"] == decided["lr"] == pytest.approx(0.1 * decided["lr_factor"])
    assert decided["reason"] == "the third measured step"
    assert decided["noise_scale"] is None  # JSON has no infinity
    json.dumps(decided, allow_nan=False)
    assert (line["batch/target"], line["batch/noise"], line["batch/signal"]) == (
        2.5,
        decided["noise"],
        decided["signal"],
    )
    assert "batch/noise_scale" not in line


def test_times_belong_to_the_plans_of_their_steps(tmp_path: Path) -> None:
    shown, lines, _ = run(str(prepared(tmp_path / "job", 1).root), STEPS)
    assert [stats.timed_plan for stats in shown[:2]] == [None, None]
    assert [stats.step_seconds for stats in shown[:2]] == [None, None]
    for stats in shown[2:]:
        line = lines[stats.step - 2]
        assert stats.step_seconds == line["step_s"]
        assert stats.timed_plan is not None
        assert stats.timed_plan.global_batch_size == line["global_size"]


@pytest.mark.distributed
def test_all_ranks_are_shown_the_same(tmp_path: Path) -> None:
    ranks = run_on_ranks(3, run, str(prepared(tmp_path / "job", 3).root), STEPS)
    first, *others = [shown for shown, _, _ in ranks]
    assert any(stats.gradient is not None for stats in first)
    assert all(stats.step_seconds is not None for stats in first[2:])
    assert all(shown == first for shown in others)


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_resumed_job_takes_the_same_decisions(tmp_path: Path, workers: int, step: int) -> None:
    # Checkpoints right after a measured step (3, 9), and with a measurement that is told next (6: of step 5).
    whole = prepared(tmp_path / "whole", workers)
    shown, _, events = run_on_ranks(workers, run, str(whole.root), STEPS)[0]
    resumed = prepared(tmp_path / "resumed", workers, whole, step)
    shown_again, _, events_again = run_on_ranks(workers, run, str(resumed.root), STEPS)[0]
    assert [stats.gradient for stats in shown_again] == [stats.gradient for stats in shown[step:]]
    assert events_again == [event for event in events if event[1]["step"] > step]
    assert_same_weights(whole, resumed)


def test_a_length_in_steps_is_that_many_whatever_they_take_and_the_rate_follows_the_steps(tmp_path: Path) -> None:
    schedule = {"name": "polynomial", "power": 1.0, "warmup": {"steps": 4}}
    whole = prepared(tmp_path / "whole", 1, train={"steps": STEPS}, schedule=schedule)
    shown, lines, _ = run(str(whole.root))
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[-1]["samples"] > STEPS * 26
    factors = [line["global_size"] / 26 for line in lines]
    expected = [0.1 * min(n / 4, 1 - max(0, n - 5) / 8) for n in range(1, STEPS + 1)]
    assert [line["lr"] / factor for line, factor in zip(lines, factors, strict=True)] == pytest.approx(expected)
    assert [stats.lr for stats in shown] == pytest.approx(expected)
    assert [stats.is_warmup for stats in shown] == [n < 4 for n in range(STEPS)]
    resumed = prepared(tmp_path / "resumed", 1, whole, 9, train={"steps": STEPS}, schedule=schedule)
    _, more, _ = run(str(resumed.root))
    assert [(line["step"], line["samples"], line["lr"]) for line in more] == [
        (line["step"], line["samples"], line["lr"]) for line in lines[9:]
    ]
    assert_same_weights(whole, resumed)


def test_a_length_in_samples_is_that_many_and_the_last_step_takes_what_is_left(tmp_path: Path) -> None:
    directory = prepared(tmp_path / "job", 1, train={"samples": 500}, schedule={"name": "polynomial", "power": 1.0})
    shown, lines, _ = run(str(directory.root))
    assert lines[-1]["samples"] == 500
    assert len(lines) < 500 // 26
    for stats, line in zip(shown[:-1], lines[:-1], strict=True):
        assert line["lr"] == pytest.approx(0.1 * (1 - stats.samples / 500) * line["global_size"] / 26)
