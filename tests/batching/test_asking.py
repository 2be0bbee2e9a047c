"""As many workers as a step's samples are enough for, whatever chooses the batch."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from batching.controlled import READY, Drive, controller_of, parts_of

from orchestrator.batching.asking import SLACK, AskingController, asked_for
from orchestrator.batching.constant import ConstantController
from orchestrator.core.values import StepStats
from orchestrator.spec.job import WorkerRange

LIMITS = WorkerRange(min=1, max=8, samples_per_worker=64)


@pytest.mark.parametrize(
    ("batch", "expected"), [(1, 1), (64, 1), (65, 2), (128, 2), (129, 3), (512, 8), (513, 8), (10**6, 8)]
)
def test_as_many_as_have_at_most_so_many_samples(batch: int, expected: int) -> None:
    assert asked_for(None, batch, 64, LIMITS) == expected


def test_more_are_asked_for_at_once_and_fewer_where_the_batch_is_well_below() -> None:
    assert asked_for(2, 129, 64, LIMITS) == 3
    assert asked_for(3, 128, 64, LIMITS) == 3  # 1.25 times 128 are still enough for three
    assert asked_for(3, 102, 64, LIMITS) == 2
    assert asked_for(9, 512, 64, LIMITS) == 8  # a resumed job may have been given other limits


@pytest.mark.parametrize("seed", range(40))
def test_in_any_life_what_is_asked_for_is_within_the_limits_and_near_the_rule(seed: int) -> None:
    rng = random.Random(seed)
    least = rng.randint(1, 4)
    limits = WorkerRange(min=least, max=least + rng.randint(0, 12))
    samples, present, batch = rng.randint(1, 100), None, rng.randint(1, 2000)
    for _ in range(50):
        batch = max(1, round(batch * rng.uniform(0.5, 2.0)))
        before, present = present, asked_for(present, batch, samples, limits)
        rule = asked_for(None, batch, samples, limits)
        assert limits.min <= present <= limits.max
        assert rule <= present <= asked_for(None, round(SLACK * batch), samples, limits)
        if before is not None and present < before:
            assert present == rule


def asking(controller: dict, **more: object) -> AskingController:
    return AskingController(controller_of(controller, **more), LIMITS, 64)


def test_a_schedules_batch_brings_workers_and_the_plan_is_else_the_schedules() -> None:
    schedule = {"name": "schedule", "sizes": "640:128 1280:512"}
    plans, plain = Drive(asking(schedule)).run(20), Drive(controller_of(schedule)).run(20)
    assert [replace(plan, workers=None, wish=None) for plan in plans] == plain
    assert [plan.workers for plan in plans] == [-(-plan.global_batch_size // 64) for plan in plans]
    wishes = [plan.wish for plan in plans if plan.wish is not None]
    assert [(wish.workers, wish.batch) for wish in wishes] == [(1, 64), (2, 128), (8, 512)]
    assert wishes[1].reason == "64 samples are enough for a worker"
    assert wishes[1].noise_scale is None


def test_a_batch_that_follows_the_noise_brings_workers_with_its_numbers() -> None:
    config = {"name": "noise_scale", "statistic": {"every": 1}, "guards": READY}
    plans = Drive(asking(config), noise=200.0, signal=1.0).run(10)
    wish = next(plan.wish for plan in plans[1:] if plan.wish is not None)
    assert (wish.workers, wish.batch) == (2, 128)
    assert wish.noise_scale == pytest.approx(200.0)


def test_the_wish_is_in_the_state_which_the_controller_alone_takes_over_too() -> None:
    schedule = {"name": "schedule", "sizes": "640:128"}
    drive = Drive(asking(schedule))
    drive.run(12)
    state = json.loads(json.dumps(drive.controller.state_dict()))
    assert state == {"size": 128, "workers_wanted": 2}
    again = asking(schedule)
    again.load_state_dict(state)
    stats = StepStats(step=drive.step, samples=drive.samples, loss=None)
    assert (again.plan(stats).workers, again.plan(stats).wish) == (2, None)  # nothing new is asked for
    alone = controller_of(schedule)
    alone.load_state_dict(state)
    assert alone.plan(stats).workers is None
    before = ConstantController(parts_of({"name": "constant"}))
    asked = AskingController(before, LIMITS, 64)
    asked.load_state_dict(before.state_dict())  # of a job that did not ask
    assert asked.plan(stats).wish is not None
