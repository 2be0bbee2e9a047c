"""The controllers that follow the samples: a schedule of batches, and Seesaw against the equations of its paper."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from batching.controlled import Drive, controller_of, parts_of

from orchestrator.batching.schedule import ScheduleController, scheduled_size
from orchestrator.batching.seesaw import seesaw
from orchestrator.core.values import PhaseStart, StepStats

COSINE: dict[str, Any] = {"schedule": {"name": "cosine"}}
PAIRS = [(0, 768), (250_000, 1536), (500_000, 3072)]


@pytest.mark.parametrize(
    ("position", "size"), [(0, 768), (249_999, 768), (250_000, 1536), (499_999, 1536), (500_000, 3072), (10**9, 3072)]
)
def test_steps_as_megatron_has_them(position: int, size: int) -> None:
    assert scheduled_size(PAIRS, position) == size


def test_a_ramp_is_a_straight_line_in_quanta() -> None:
    assert scheduled_size(PAIRS, 125_000, ramp=True) == 1152
    assert scheduled_size(PAIRS, 125_000, ramp=True, quantum=100) == 1100
    assert scheduled_size(PAIRS, 0, ramp=True, quantum=100) == 768
    assert scheduled_size(PAIRS, 600_000, ramp=True, quantum=100) == 3072
    assert scheduled_size([(0, 100), (10, 50)], 5, ramp=True) == 75


def run(controller: dict[str, Any], steps: int, **more: Any) -> list[tuple[int, int, Any]]:
    drive = Drive(controller_of(controller, **more))
    plans, seen = drive.run(steps), 0
    rows = []
    for plan in plans:
        rows.append((seen, plan.global_batch_size, plan))
        seen += plan.global_batch_size
    return rows


def test_the_controller_changes_at_its_positions_and_says_so() -> None:
    rows = run({"name": "schedule", "sizes": "130:96 400:128", "coupling": "linear"}, 8)
    assert [(seen, size) for seen, size, _ in rows] == [
        (0, 64),
        (64, 64),
        (128, 64),
        (192, 96),
        (288, 96),
        (384, 96),
        (480, 128),
        (608, 128),
    ]
    decided = [(plan.decision.batch, plan.decision.reason) for *_, plan in rows if plan.decision]
    assert decided == [(96, "schedule at 192 samples"), (128, "schedule at 480 samples")]
    assert rows[-1][2].lr_factor == 2.0


def test_positions_may_be_tokens_and_count_from_the_phase() -> None:
    rows = run({"name": "schedule", "sizes": "12800:128", "tokens_per_sample": 100}, 4)
    assert [size for _, size, _ in rows] == [64, 64, 128, 128]
    parts = parts_of({"name": "schedule", "sizes": "100:128"})
    later = ScheduleController(replace(parts, start=PhaseStart(index=1, step=5, samples=1000)))
    assert later.plan(StepStats(step=5, samples=1064, loss=None)).global_batch_size == 64
    assert later.plan(StepStats(step=6, samples=1128, loss=None)).global_batch_size == 128


def test_a_resumed_schedule_does_not_announce_again() -> None:
    config = {"name": "schedule", "sizes": "100:128"}
    whole = controller_of(config)
    for samples in (0, 64, 128):
        whole.plan(StepStats(step=0, samples=samples, loss=None))
    resumed = controller_of(config)
    resumed.load_state_dict(whole.state_dict())
    assert resumed.plan(StepStats(step=4, samples=256, loss=None)).decision is None


@pytest.mark.parametrize("cuts", [0, 1, 2, 7])
def test_seesaw_keeps_rate_over_root_of_batch(cuts: int) -> None:
    """lr / sqrt(B) after n cuts is that of the schedule at the first batch: alpha sqrt(beta) is constant."""
    growth, rate = seesaw(1.1**-cuts, 1.1)
    assert growth == pytest.approx(1.1**cuts)
    assert rate / math.sqrt(growth) == pytest.approx(1.1**-cuts)


def test_between_two_cuts_seesaw_stays_and_beyond_the_largest_batch_the_rate_falls() -> None:
    assert seesaw(0.51, 2.0) == (1.0, 1.0)
    assert seesaw(0.26, 2.0) == pytest.approx((2.0, 2**-0.5))
    assert seesaw(0.1, 2.0, most=4.0) == pytest.approx((4.0, 0.1 * 2))
    assert seesaw(0.25, 2.0, most=4.0) == pytest.approx((4.0, 0.5))


@pytest.mark.parametrize(
    ("shape", "bound"),
    [
        (lambda progress: math.cos(math.pi * progress / 2), 1 - 2 / math.pi),  # the paper's cosine
        (lambda progress: (1 + math.cos(math.pi * progress)) / 2, 1 / 2),  # ours, which falls sooner
    ],
)
def test_seesaw_saves_nearly_as_many_steps_as_the_schedule_falls(shape: Callable[[float], float], bound: float) -> None:
    """Steps are the integral of 1 / B = the rate's share of its peak; cuts by 1.02 come close to it."""
    total, size = 6_400_000, 640
    made = controller_of({"name": "seesaw", "factor": 1.02, "max_size": 640_000}, **COSINE, batch={"global_size": size})
    seen = steps = 0
    while seen < total:
        lr = 0.1 * shape(seen / total)
        plan = made.plan(StepStats(step=steps, samples=seen, loss=None, lr=lr))
        # What Adam's steps depend on is what the schedule alone would give.
        coupled = lr * plan.lr_factor / math.sqrt(plan.global_batch_size / size)
        assert coupled == pytest.approx(lr, rel=0.022)
        seen += plan.global_batch_size
        steps += 1
    saved = 1 - steps / (total / size)
    assert 0.93 * bound < saved < bound


def test_seesaw_waits_for_the_end_of_the_warmup() -> None:
    made = controller_of({"name": "seesaw"}, **COSINE)
    plan = made.plan(StepStats(step=0, samples=0, loss=None, lr=0.001, is_warmup=True))
    assert (plan.global_batch_size, plan.lr_factor) == (64, 1.0)


def risks(phases: int, rate_cut: float, batch_growth: float, *, normalized: bool) -> tuple[float, int]:
    """Last risk and steps of SGD on a power-law regression, by the exact recursion of its second moments.

    Ten features have variances 1 / i, one sample's noise is 1. A phase sees the same number of samples; from one to the
    next the rate is divided and the batch multiplied. Normalized steps divide by the root of the mean squared gradient.
    """
    variances = [1 / index for index in range(1, 11)]
    errors = [1.0] * 10
    rate, batch, steps = (0.2 if normalized else 0.1), 8.0, 0
    for _ in range(phases):
        for _ in range(int(1200 * 8 / batch)):
            risk = sum(v * e for v, e in zip(variances, errors, strict=True))
            noise = [v * (risk + 1.0) / batch for v in variances]
            size = math.sqrt(sum(v * v * e for v, e in zip(variances, errors, strict=True)) + sum(noise))
            eta = rate / size if normalized else rate
            errors = [(1 - eta * v) ** 2 * e + eta**2 * n for v, e, n in zip(variances, errors, noise, strict=True)]
            steps += 1
        rate, batch = rate / rate_cut, batch * batch_growth
    return sum(v * e for v, e in zip(variances, errors, strict=True)), steps


def test_seesaw_reaches_the_risk_of_a_falling_rate_in_a_third_of_the_steps() -> None:
    """Cuts by 2 in 6 phases; rates that fall slower than alpha sqrt(beta) = 2 are worse, and rising ones fail."""
    decay, decay_steps = risks(6, 2.0, 1.0, normalized=True)
    traded, traded_steps = risks(6, 2**0.5, 2.0, normalized=True)
    assert traded == pytest.approx(decay, rel=0.05)
    assert traded_steps / decay_steps == pytest.approx(1.96875 / 6, rel=0.01)
    slower, _ = risks(6, 2**0.25, 2**1.5, normalized=True)
    constant, _ = risks(6, 1.0, 4.0, normalized=True)
    rising, _ = risks(6, 2**-0.5, 2.0, normalized=True)
    assert 1.3 * decay < slower
    assert 3 * slower < constant
    assert 10 * constant < rising


def test_plain_sgd_trades_rate_for_batch_in_proportion() -> None:
    decay, _ = risks(6, 2.0, 1.0, normalized=False)
    traded, _ = risks(6, 1.0, 2.0, normalized=False)
    assert traded == pytest.approx(decay, rel=0.03)
