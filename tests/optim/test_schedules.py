"""Schedules against values worked out by hand."""

import math

import pytest

from orchestrator.optim.schedules import SampleSchedule, scaling_factor, warmup_samples
from orchestrator.spec.methods.schedules import Constant, Cosine, Polynomial, ScalingConfig, Warmup


def rates(schedule, *, warmup=0.0, total=100, step=10):
    rule = SampleSchedule(schedule, peak_lr=2.0, warmup_samples=warmup, total_samples=total)
    return [rule.lr(seen, step) for seen in range(0, total, step)]


def test_polynomial_decays_to_the_end_of_training() -> None:
    # progress 0, .1, ... .9 of a linear decay from 2.
    assert rates(Polynomial(name="polynomial")) == pytest.approx([2 * (1 - i / 10) for i in range(10)])
    assert rates(Polynomial(name="polynomial", power=2.0))[5] == pytest.approx(2 * 0.25)
    assert rates(Polynomial(name="polynomial", final_fraction=0.5))[9] == pytest.approx(2 * (0.5 + 0.5 * 0.1))


def test_warmup_reaches_the_peak_with_its_last_step_and_the_decay_starts_there() -> None:
    got = rates(Polynomial(name="polynomial"), warmup=30.0)
    assert got[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert got[3:5] == pytest.approx([2.0, 2 * (1 - 10 / 70)])


def test_cosine_and_constant() -> None:
    assert rates(Cosine(name="cosine"))[5] == pytest.approx(2 * (1 + math.cos(math.pi / 2)) / 2)
    assert rates(Constant(name="constant"), warmup=20.0) == pytest.approx([1.0] + [2.0] * 9)


def test_the_rate_depends_on_samples_not_on_steps() -> None:
    rule = SampleSchedule(Polynomial(name="polynomial"), peak_lr=1.0, warmup_samples=0.0, total_samples=100)
    assert rule.lr(40, 10) == rule.lr(40, 60) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (None, 0.0),
        (Warmup(steps=5), 320.0),
        (Warmup(epochs=0.5), 500.0),
        (Warmup(samples=77), 77.0),
        (Warmup(fraction=0.25), 2500.0),
    ],
)
def test_warmup_units(warmup: Warmup | None, expected: float) -> None:
    assert warmup_samples(warmup, global_batch_size=64, epoch_samples=1000, total_samples=10_000) == expected


def test_scaling_rules() -> None:
    assert scaling_factor(ScalingConfig(), 1024) == 1.0
    assert scaling_factor(ScalingConfig(rule="linear", reference_batch=128), 1024) == 8.0
    assert scaling_factor(ScalingConfig(rule="sqrt", reference_batch=256), 1024) == 2.0


def test_a_warmup_as_long_as_the_training_never_divides_by_zero() -> None:
    assert rates(Polynomial(name="polynomial"), warmup=100.0)[-1] == pytest.approx(2.0)
