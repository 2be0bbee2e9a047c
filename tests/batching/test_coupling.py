"""What a grown batch makes of the rate: the rules against the job's own scaling rules, and AdaScale's gain."""

import math

import pytest

from orchestrator.batching.coupling import averages_ratio, gain
from orchestrator.spec.methods.schedules import ScalingConfig
from orchestrator.spec.scaling import rate_factor, scaling_factor


@pytest.mark.parametrize("rule", ["none", "linear", "sqrt", "sde", "gain"])
def test_a_coupling_is_the_scaling_rule_of_its_name(rule: str) -> None:
    scaling = ScalingConfig(rule=rule, reference_batch=128, noise_scale=700.0 if rule == "gain" else None)
    for batch in (64, 128, 1000):
        assert rate_factor(rule, batch, 128, 700.0) == pytest.approx(scaling_factor(scaling, batch), rel=1e-12)


def test_the_rules_by_number() -> None:
    factors = {rule: rate_factor(rule, 512, 128, 700.0) for rule in ("none", "linear", "sqrt", "sde", "gain")}
    assert factors == pytest.approx({"none": 1.0, "linear": 4.0, "sqrt": 2.0, "sde": 2.0, "gain": 4 * 828 / 1212})


def test_the_gain_is_linear_in_noise_and_1_without() -> None:
    assert gain(8.0, math.inf) == 8.0
    assert gain(8.0, 1e9) == pytest.approx(8.0)
    assert gain(8.0, 0.0) == 1.0
    assert gain(1.0, 3.0) == 1.0
    assert 1 < gain(8.0, 0.5) < gain(8.0, 5.0) < 8


def test_only_sde_moves_the_averages() -> None:
    assert averages_ratio("sde", 512, 128) == 4.0
    assert averages_ratio("sqrt", 512, 128) == 1.0
