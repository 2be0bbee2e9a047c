"""AdaScale's gain against the equations of FairScale's AdaScale, and its course over steps."""

import json

import numpy as np
import pytest
from batching.controlled import Drive, controller_of, drawn_norms

from orchestrator.batching.adascale import adascale_gain
from orchestrator.core.gradient_stats import RunningStatistic


def test_the_gain_lies_between_1_and_k() -> None:
    assert adascale_gain(0.0, 1.0, batch=64, reference=8) == 1.0
    assert adascale_gain(1e9, 1.0, batch=64, reference=8) == pytest.approx(8.0)
    assert adascale_gain(5.0, -1.0, batch=64, reference=8) == 8.0
    # (S / B0 + G2) / (S / B + G2)
    assert adascale_gain(32.0, 2.0, batch=64, reference=8) == pytest.approx((4 + 2) / (0.5 + 2))


def test_the_gain_is_fairscales_where_the_definitions_agree() -> None:
    """Its moving averages by step are ours by sample while the batch stays, and unclamped samples agree."""
    num_groups, scale, batch = 4, 8.0, 64
    decay = 1 - num_groups / 1000
    half_life = batch * np.log(0.5) / np.log(decay)
    statistic = RunningStatistic(half_life)
    generator = np.random.default_rng(0)
    variance = square = weight = 0.0
    for step in range(200):
        norms = drawn_norms(generator, batch, noise=100.0, signal=5.0)
        statistic.update(norms, step * batch)
        # FairScale: sums over the workers' own mean gradients.
        total, mean = norms.sum_weighted_sq * num_groups / batch, norms.norm_sq
        var = scale / (num_groups * (num_groups - 1)) * total - scale / (num_groups - 1) * mean
        sqr = mean - var / scale
        variance, square = decay * variance + (1 - decay) * var, decay * square + (1 - decay) * sqr
        weight = decay * weight + (1 - decay)
    var, sqr = variance / weight, square / weight
    theirs = (var + sqr) / (var / scale + sqr)
    ours = adascale_gain(statistic.noise, statistic.signal, batch=batch, reference=8)
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert 2 < ours < 7


def test_the_controller_multiplies_the_rate_and_counts_progress() -> None:
    config = {"name": "adascale", "reference_batch": 8, "exponent": 0.5}
    drive = Drive(controller_of(config), noise=32.0, signal=2.0)
    plans = drive.run(5)
    gain = (4 + 2) / (0.5 + 2)
    assert [plan.lr_factor for plan in plans] == pytest.approx([1, 1, *[gain**0.5] * 3])
    assert {plan.global_batch_size for plan in plans} == {64}
    decision = plans[-1].decision
    assert decision is not None
    assert decision.reason == f"gain {gain:.4g} of 8; {2 + 3 * gain:.6g} steps of 8 so far"
    state = json.loads(json.dumps(drive.controller.state_dict()))
    restored = controller_of(config)
    restored.load_state_dict(state)
    assert restored.state_dict() == drive.controller.state_dict()
