"""The law of steps over batches, refitted to a published table, and what is read off loss curves."""

import math

import numpy as np
import pytest

from orchestrator.core.errors import UsageError
from orchestrator.simulate.critical_batch import LossCurve, fit_steps, power_law, steps_to_common_loss

BATCHES = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
# Steps to a validation loss of language models, by millions of parameters (Zhang et al., arXiv:2410.21676).
STEPS = {
    85: [46000, 23000, 13282, 7000, 3840, 2528, 1917, 1600, 1600],
    151: [96000, 49000, 24000, 12000, 7128, 4350, 2940, 2400, 2300],
    302: [196000, 90000, 46000, 23400, 13300, 7224, 4980, 3400, 2879],
    604: [311000, 166000, 81000, 37440, 21320, 11400, 7199, 4700, 3800],
    1200: [642000, 331000, 176000, 94000, 46500, 25000, 15360, 8900, 6500],
}
WITH_20_PERCENT = {85: 745, 151: 955, 302: 1394, 604: 1889, 1200: 2533}
OF_MCCANDLISH = {85: 2191, 151: 3240, 302: 5433, 604: 7907, 1200: 11131}


@pytest.mark.parametrize("size", STEPS)
def test_the_published_critical_batches_are_found_again(size: int) -> None:
    law = fit_steps(BATCHES, STEPS[size])
    assert law.overhead(256) == pytest.approx(WITH_20_PERCENT[size], rel=0.01)
    assert law.mccandlish == pytest.approx(OF_MCCANDLISH[size], rel=0.01)
    assert 0.02 < law.worst_error < 0.1
    # By its definition.
    batch = law.overhead(256)
    assert law.steps(batch) == pytest.approx(1.2 * law.steps(256) * 256 / batch)


def test_so_is_their_growth_with_the_model() -> None:
    laws = {size: fit_steps(BATCHES, steps) for size, steps in STEPS.items()}
    factor, exponent = power_law(list(laws), [law.overhead(256) for law in laws.values()])
    assert exponent == pytest.approx(0.468, rel=0.01)
    assert factor == pytest.approx(93.2, rel=0.01)


def test_exact_steps_give_the_law_they_were_made_from() -> None:
    law = fit_steps([8, 16, 64, 256], [50 + 4000 / batch for batch in (8, 16, 64, 256)])
    assert law.least_steps == pytest.approx(50, rel=1e-5)
    assert law.least_samples == pytest.approx(4000, rel=1e-5)
    assert law.samples(80) == pytest.approx(2 * 4000)
    assert law.worst_error < 1e-5


def test_perfect_scaling_has_no_critical_batch() -> None:
    law = fit_steps([8, 16, 64], [1000, 500, 125])
    assert math.isinf(law.mccandlish)
    assert math.isinf(law.overhead(8))


def test_two_batches_are_no_law() -> None:
    with pytest.raises(UsageError, match="at least 3"):
        fit_steps([8, 16, 8], [3, 2, 3])


def falling(batch: int, least: float, total: int = 12_800) -> LossCurve:
    """A loss that falls with the progress s / (least + 1000 / batch) of its steps s."""
    steps = np.arange(total // batch)
    return LossCurve(batch, steps * float(batch), 3.0 - 0.002 * steps / (least + 1000 / batch) * 1000)


def test_steps_are_counted_to_the_loss_that_all_reach() -> None:
    curves = [falling(batch, 5.0) for batch in (16, 64, 256, 1024)]
    for half_life in (1.0, 1000.0):
        target, steps = steps_to_common_loss(curves, half_life)
        assert target >= max(curve.loss.min() for curve in curves)
        law = fit_steps([curve.batch for curve in curves], steps)
        assert law.mccandlish == pytest.approx(200.0, rel=1e-3)
        assert law.worst_error < 1e-3


def test_smoothing_halves_a_steps_weight_with_the_samples_since() -> None:
    curve = LossCurve(10, np.array([0.0, 10.0, 20.0]), np.array([4.0, 2.0, 1.0]))
    positions, losses = curve.smoothed(10.0)
    assert losses == pytest.approx([4.0, (2 + 4 / 2) / 1.5, (1 + 2 / 2 + 4 / 4) / 1.75])
    assert positions == pytest.approx([0.0, 10 / 1.5, (20 + 10 / 2) / 1.75])


def test_curves_that_do_not_fall_are_refused() -> None:
    flat = LossCurve(8, np.arange(19) * 8.0, np.full(19, 2.0))
    with pytest.raises(UsageError, match="begins at the loss"):
        steps_to_common_loss([flat, falling(16, 5.0)], half_life=1.0)
