"""Goodput over batches and workers: what more workers cost is found again, and no more are asked for than pay."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import numpy as np
import pytest
from batching.controlled import READY, Drive, controller_of

from orchestrator.batching.goodput import division, efficiency, workers_that_pay
from orchestrator.batching.throughput import StepTime, Timing, fit
from orchestrator.core.protocols import BatchController
from orchestrator.core.values import BatchPlan, Wish

CASES = {
    "cheap exchange": StepTime(alpha=0.002, beta=0.0040, rest=0.005, gamma=1.5, exchange=0.005, more=0.0005),
    "dear exchange": StepTime(alpha=0.010, beta=0.0010, rest=0.010, gamma=1.0, exchange=0.050, more=0.0100),
    "hidden exchange": StepTime(alpha=0.050, beta=0.0020, rest=0.010, gamma=3.0, exchange=0.100, more=0.0200),
}
REFERENCE, LARGEST, MICRO, MOST, MIN_UTILITY = 64, 1024, 64, 8, 0.5


def seen(true: StepTime, numbers: tuple[int, ...], noise: float = 0.01) -> list[Timing]:
    generator = np.random.default_rng(0)
    return [
        Timing(micro, num, true.seconds(micro, num, workers) * float(np.exp(generator.normal() * noise)), workers)
        for workers in numbers
        for micro, num in ((16, 1), (32, 1), (64, 1), (64, 2))
    ]


@pytest.mark.parametrize("true", CASES.values(), ids=CASES)
def test_times_with_more_workers_than_were_seen_are_foreseen(true: StepTime) -> None:
    found = fit(seen(true, (1, 2, 4)))
    for micro, num, workers in ((24, 1, 6), (64, 3, 8), (48, 2, 3), (16, 1, 1)):
        assert found.seconds(micro, num, workers) == pytest.approx(true.seconds(micro, num, workers), rel=0.12)


def test_two_workers_pay_for_an_exchange_and_each_further_one_for_itself() -> None:
    model = StepTime(alpha=1.0, beta=0.0, rest=1.0, gamma=1.0, exchange=10.0, more=0.5)
    assert [model.seconds(8, 1, workers) for workers in (1, 2, 3, 6)] == pytest.approx([2.0, 12.0, 12.5, 14.0])


@pytest.mark.parametrize("numbers", [(1,), (2,), (4,)])
def test_of_a_single_number_more_workers_are_taken_to_cost_nothing(numbers: tuple[int, ...]) -> None:
    found = fit(seen(CASES["dear exchange"], numbers))
    assert (found.exchange, found.more) == (0.0, 0.0)
    assert found.seconds(32, 1, 8) == found.seconds(32, 1, numbers[0])


def test_each_further_number_tells_one_more_cost() -> None:
    true = CASES["dear exchange"]
    two = fit(seen(true, (1, 2), noise=0.0))
    assert (two.exchange, two.more) == (pytest.approx(0.05, rel=0.2), 0.0)
    assert fit(seen(true, (2, 4), noise=0.0)).exchange == 0.0  # what two workers pay is in what is paid anyway
    assert fit(seen(true, (2, 4), noise=0.0)).more == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("seed", range(60))
def test_the_workers_that_pay_are_those_of_the_rule(seed: int) -> None:
    rng = random.Random(seed)
    least = rng.randint(1, 3)
    worth = {least + number: rng.uniform(1.0, 1.0 + number) for number in range(rng.randint(1, 8))}
    share = rng.uniform(0.1, 1.0)
    legal = {k: value for k, value in worth.items() if value / k >= share * worth[least] / least}
    chosen = workers_that_pay(worth, min_utility=share)
    assert worth[chosen] == max(legal.values())
    # Where it was asked for already it stays, unless it has lost its worth or another one has clearly more.
    assert workers_that_pay(worth, min_utility=share, present=chosen, min_speedup=1.05) == chosen
    other = rng.choice(sorted(worth))
    kept = workers_that_pay(worth, min_utility=share, present=other, min_speedup=1.05)
    is_worthless = worth[other] / other < 0.9 * share * worth[least] / least
    assert kept == (chosen if is_worthless or worth[chosen] > 1.05 * worth[other] else other)


def test_what_was_asked_for_stays_until_it_is_clearly_not_worth_it() -> None:
    arguments = {"min_utility": 0.6, "min_speedup": 1.05}
    assert workers_that_pay({1: 1.0, 2: 1.16}, **arguments) == 1
    assert workers_that_pay({1: 1.0, 2: 1.16}, present=2, **arguments) == 2
    assert workers_that_pay({1: 1.0, 2: 1.06}, present=2, **arguments) == 1


def test_of_equals_the_fewer() -> None:
    assert workers_that_pay({1: 1.0, 2: 1.0, 3: 1.0}, min_utility=0.1) == 1
    assert workers_that_pay({2: 1.0, 3: 1.4}, min_utility=1.0, present=7) == 2


# ---- a job on a made-up machine, which always gives as many workers as are asked for


class Machine:
    """Trains, and goes on with another controller of the same state whenever other workers are asked for."""

    def __init__(self, true: StepTime, noise_scale: float, **config: object) -> None:
        self.true, self.noise_scale, self.workers = true, noise_scale, 1
        guards = {**READY, "hysteresis": 1, "shrink": True}
        self.config = {"name": "goodput", "guards": guards, "statistic": {"every": 3}, **config}
        self.generator = np.random.default_rng(1)
        self.controller = self.build()
        self.batch = REFERENCE
        self.wishes: list[Wish] = []
        self.states: list[str] = []

    def build(self) -> BatchController:
        limits = {"min": 1, "max": MOST}
        return controller_of(self.config, workers=self.workers, worker_range=limits, batch={"micro_size": MICRO // 2})

    def seconds(self, batch: int) -> float:
        true = self.true.seconds(*division(batch, self.workers, MICRO // 2), self.workers)
        return true * float(np.exp(self.generator.normal() * 0.01))

    def run(self, steps: int) -> None:
        drive, timed = Drive(self.controller, noise=self.noise_scale, signal=1.0), None
        for _ in range(steps):
            plan: BatchPlan
            (plan,) = drive.run(
                1, step_seconds=None if timed is None else self.seconds(timed.global_batch_size), timed_plan=timed
            )
            self.batch, timed = plan.global_batch_size, plan
            if plan.wish is not None:
                self.wishes.append(plan.wish)
            if plan.workers not in (None, self.workers):
                self.workers = plan.workers
                self.states.append(json.dumps(self.controller.state_dict()))
                self.controller = self.build()
                self.controller.load_state_dict(json.loads(self.states[-1]))
                drive, timed = Drive(self.controller, noise=self.noise_scale, signal=1.0), None


def true_goodput(machine: Machine, batch: int, workers: int) -> float:
    seconds = machine.true.seconds(*division(batch, workers, MICRO // 2), workers)
    return batch / seconds * efficiency(batch, machine.noise_scale, REFERENCE)


def best_goodput(machine: Machine, min_utility: float) -> float:
    """Of all batches and workers whose utility is enough, by trying all."""
    worth = {
        workers: max(true_goodput(machine, batch, workers) for batch in range(REFERENCE, LARGEST + 1, workers))
        for workers in range(1, MOST + 1)
    }
    return max(value for workers, value in worth.items() if value / workers >= min_utility * worth[1])


@pytest.mark.parametrize("true", CASES.values(), ids=CASES)
@pytest.mark.parametrize("noise_scale", [50.0, 400.0, 3000.0])
def test_batch_and_workers_end_within_5_percent_of_the_best_of_the_rule(true: StepTime, noise_scale: float) -> None:
    machine = Machine(true, noise_scale)
    machine.run(120)
    got = true_goodput(machine, machine.batch, machine.workers)
    assert got >= 0.95 * best_goodput(machine, MIN_UTILITY)
    # Nobody goes beyond twice what was seen, and nobody swings.
    asked = [wish.workers for wish in machine.wishes]
    assert all(after <= 2 * max(asked[:index], default=1) for index, after in enumerate(asked))
    assert len(asked) <= 8


def test_more_workers_are_asked_for_where_the_noise_makes_large_batches_worth_it() -> None:
    asked = []
    for noise_scale in (1.0, 3000.0):
        machine = Machine(CASES["dear exchange"], noise_scale)
        machine.run(80)
        asked.append(machine.workers)
    assert asked[0] < asked[1]


def test_the_timings_of_all_numbers_survive_a_resize() -> None:
    machine = Machine(CASES["cheap exchange"], 3000.0)
    machine.run(80)
    assert len(machine.states) >= 2
    counts = [{timed[2] for timed in json.loads(state)["policy"]["timed"]} for state in machine.states]
    assert counts[0] == {1}
    assert all(after > before for before, after in pairwise(counts))
    assert machine.controller.state_dict()["policy"]["workers"] == machine.workers


def test_without_a_range_or_a_share_nobody_asks() -> None:
    for workers, config in ((4, {}), (1, {"min_utility": None})):
        guards = {"guards": READY, "statistic": {"every": 1}}
        range_ = {} if workers == 4 else {"worker_range": {"min": 1, "max": 8}}
        drive = Drive(controller_of({"name": "goodput", **guards, **config}, workers=workers, **range_), noise=400.0)
        (timed,) = drive.run(1)
        plans = drive.run(10, step_seconds=0.1, timed_plan=timed)
        assert {(plan.workers, plan.wish) for plan in plans} == {(None, None)}


def test_it_does_not_ask_before_it_has_measured_enough() -> None:
    guards = {**READY, "min_measurements": 4}
    config = {"name": "goodput", "guards": guards, "statistic": {"every": 1}}
    drive = Drive(controller_of(config, workers=1, worker_range={"min": 1, "max": 8}), noise=400.0, signal=1.0)
    (timed,) = drive.run(1)
    plans = drive.run(10, step_seconds=0.1, timed_plan=timed)
    first = next(index for index, plan in enumerate(plans) if plan.wish is not None)
    assert drive.controller.state_dict()["policy"]["workers"] is not None
    assert first == 4
    assert plans[first].wish is not None
    assert plans[first].wish.noise_scale == pytest.approx(400.0)
