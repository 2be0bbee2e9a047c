"""Goodput: the model of a step's time is found again, and the batch chosen by it is nearly the best there is."""

import numpy as np
import pytest
from batching.controlled import READY, Drive, controller_of

from orchestrator.batching.goodput import division, efficiency
from orchestrator.batching.throughput import StepTime, Timing, fit
from orchestrator.core.values import BatchPlan

CASES = [
    StepTime(alpha=0.010, beta=0.0005, rest=0.050, gamma=1.0),
    StepTime(alpha=0.050, beta=0.0020, rest=0.400, gamma=3.0),
    StepTime(alpha=0.002, beta=0.0040, rest=0.010, gamma=1.5),
]


def test_a_samples_worth_is_1_at_the_first_batch_and_falls() -> None:
    worth = [efficiency(batch, 500.0, 64) for batch in (64, 128, 1024, 10**6)]
    assert worth[0] == 1.0
    assert worth == sorted(worth, reverse=True)
    assert worth[-1] < 1e-3
    assert efficiency(4096, float("inf"), 64) == 1.0


def test_the_exchange_hides_behind_the_last_backward_at_large_gamma_only() -> None:
    assert StepTime(alpha=1.0, beta=0.0, rest=1.0, gamma=1.0).seconds(10, 3) == pytest.approx(4.0)
    assert StepTime(alpha=1.0, beta=0.0, rest=1.0, gamma=100.0).seconds(10, 3) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("true", CASES)
def test_times_of_other_batches_are_foreseen(true: StepTime) -> None:
    generator = np.random.default_rng(0)
    seen = [
        Timing(micro, num, true.seconds(micro, num) * float(np.exp(generator.normal() * 0.01)))
        for micro, num in ((16, 1), (32, 1), (64, 1), (64, 2))
    ]
    found = fit(seen)
    for micro, num in ((24, 1), (64, 3), (64, 4), (48, 2)):
        assert found.seconds(micro, num) == pytest.approx(true.seconds(micro, num), rel=0.1)


def test_of_a_single_division_half_is_taken_to_stay() -> None:
    found = fit([Timing(16, 2, 1.0)])
    assert found.seconds(16, 2) == pytest.approx(1.0)
    assert found.seconds(32, 2) == pytest.approx(1.5)
    assert fit([Timing(16, 2, 1.0)], unknown_share=0.0).seconds(64, 2) == pytest.approx(1.0)


def best_goodput(true: StepTime, noise_scale: float, workers: int, largest: int, micro: int) -> float:
    """Over all batches and all ways to divide them, also into more backwards than needed."""
    best = 0.0
    for size in range(64, largest + 1, workers):
        share = size // workers
        for num in range(-(-share // micro), share + 1):
            best = max(best, size / true.seconds(-(-share // num), num) * efficiency(size, noise_scale, 64))
    return best


@pytest.mark.parametrize("true", CASES)
@pytest.mark.parametrize("noise_scale", [50.0, 400.0, 3000.0])
def test_the_chosen_batch_is_within_5_percent_of_the_best(true: StepTime, noise_scale: float) -> None:
    workers, largest, micro = 4, 1024, 64
    config = {"name": "goodput", "guards": {**READY, "hysteresis": 1, "shrink": True}, "statistic": {"every": 1}}
    drive = Drive(controller_of(config, workers=workers, batch={"micro_size": micro}), noise=noise_scale, signal=1.0)
    generator = np.random.default_rng(1)
    timed: BatchPlan | None = None
    for _ in range(40):
        seconds = None
        if timed is not None:
            seconds = true.seconds(*division(timed.global_batch_size, workers, micro))
            seconds *= float(np.exp(generator.normal() * 0.01))
        (timed,) = drive.run(1, step_seconds=seconds, timed_plan=timed)
    size = drive.plans[-1].global_batch_size
    assert len({plan.global_batch_size for plan in drive.plans[-10:]}) == 1
    got = size / true.seconds(*division(size, workers, micro)) * efficiency(size, noise_scale, 64)
    assert got >= 0.95 * best_goodput(true, noise_scale, workers, largest, micro)


def test_without_times_it_waits() -> None:
    drive = Drive(controller_of({"name": "goodput", "guards": READY, "statistic": {"every": 1}}), noise=400.0)
    decision = drive.run(3)[-1].decision
    assert decision is not None
    assert decision.batch == 64
    assert "no step was timed yet" in decision.reason
