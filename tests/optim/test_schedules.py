"""Schedules against values worked out by hand."""

import math

import pytest

from orchestrator.optim.schedules import SampleSchedule
from orchestrator.spec.methods.schedules import Constant, Cosine, Polynomial


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


def test_a_warmup_as_long_as_the_training_never_divides_by_zero() -> None:
    assert rates(Polynomial(name="polynomial"), warmup=100.0)[-1] == pytest.approx(2.0)


def test_a_phase_counts_from_its_own_start() -> None:
    """The same rates as of a training that starts there: the re-warmup begins at 0 again."""
    arguments = {"peak_lr": 2.0, "warmup_samples": 30.0, "total_samples": 100}
    alone = SampleSchedule(Polynomial(name="polynomial"), **arguments)
    phase = SampleSchedule(Polynomial(name="polynomial"), **arguments, start_samples=70)
    assert [phase.lr(70 + seen, 10) for seen in range(0, 100, 10)] == [alone.lr(seen, 10) for seen in range(0, 100, 10)]
    assert phase.lr(70, 10) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("steps", "warmup_steps", "peak"), [(7038, 2000, 6e-3), (1563, 200, 4e-3)], ids=["sequence 128", "sequence 512"]
)
def test_the_recipe_of_bert(steps: int, warmup_steps: int, peak: float) -> None:
    """eta0 t / w up to step w, then eta0 (1 - (t - w) / (T - w)) from step w + 1 on, almost 0 in the last step.

    The decay is over what the warmup leaves. Where it is over the whole training, as in BERT's own script, the rate
    drops by w / T where the warmup ends.
    """
    size = 65536
    rule = SampleSchedule(
        Polynomial(name="polynomial", power=1.0),
        peak_lr=peak,
        warmup_samples=warmup_steps * size,
        total_samples=steps * size,
    )
    got = [rule.lr(step * size, size) for step in range(steps)]
    rising = [peak * (step + 1) / warmup_steps for step in range(warmup_steps)]
    falling = [peak * (1 - step / (steps - warmup_steps)) for step in range(steps - warmup_steps)]
    assert got == pytest.approx(rising + falling)
    assert got[-1] == pytest.approx(peak / (steps - warmup_steps))
