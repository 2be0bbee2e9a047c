"""Each guard alone holds a batch back, says so, and lets it go when its reason is gone."""

from dataclasses import replace

import pytest
from batching.controlled import parts_of

from orchestrator.batching.guards import Limits, Situation, guarded, limits_of
from orchestrator.spec.methods.controllers import Guards, Statistic

LIMITS = Limits(
    smallest=32,
    largest=1024,
    shrink=True,
    growth=2.0,
    hysteresis=1.5,
    cooldown=500,
    min_measurements=5,
    confidence=2.0,
    in_warmup=False,
    quantum=1,
    world_size=4,
    micro_size=16,
)
NOW = Situation(batch=64, measurements=5, samples_since_change=500, is_warmup=False, signal=1.0, signal_error=0.4)


def test_nothing_holds_a_plain_request_back() -> None:
    assert guarded(100.0, NOW, LIMITS) == (100, "")
    assert guarded(40.0, NOW, LIMITS) == (40, "")


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"measurements": 4}, "too few measurements"),
        ({"samples_since_change": 499}, "cooldown"),
        ({"is_warmup": True}, "warmup"),
        ({"signal_error": 0.5}, "not certain"),
        ({"signal": -1.0}, "not certain"),
        ({"signal_error": float("inf")}, "not certain"),
    ],
)
def test_a_guard_holds_the_batch(now: dict, why: str) -> None:
    size, reason = guarded(100.0, replace(NOW, **now), LIMITS)
    assert size == 64
    assert why in reason


def test_a_batch_that_never_changed_has_no_cooldown() -> None:
    assert guarded(100.0, replace(NOW, samples_since_change=None), LIMITS)[0] == 100


def test_hysteresis_is_a_factor_in_both_directions() -> None:
    assert guarded(96.0, NOW, LIMITS) == (64, "kept: near enough")
    assert guarded(97.0, NOW, LIMITS)[0] == 97
    assert guarded(43.0, NOW, LIMITS) == (64, "kept: near enough")
    assert guarded(42.0, NOW, LIMITS)[0] == 42


def test_shrinking_is_asked_for() -> None:
    assert guarded(10.0, NOW, replace(LIMITS, shrink=False)) == (64, "kept: may not shrink")
    assert guarded(10.0, NOW, LIMITS) == (32, "limited by growth")


def test_growth_and_size_are_limited() -> None:
    assert guarded(float("inf"), NOW, LIMITS) == (128, "limited by growth")
    assert guarded(5000.0, replace(NOW, batch=800), LIMITS) == (1024, "limited by max_size")
    assert guarded(5000.0, replace(NOW, batch=1024), LIMITS) == (1024, "at the limit")


def test_batches_are_multiples_of_the_quantum_and_stay_within_growth() -> None:
    limits = replace(LIMITS, quantum=48)
    assert guarded(100.0, NOW, limits)[0] == 96  # 144 would be more than twice 64
    assert guarded(200.0, replace(NOW, batch=96), limits)[0] == 192
    # A worker's share of up to one micro-batch moves by one sample each, larger ones by whole micro-batches.
    by_workers = replace(LIMITS, quantum=None)
    assert by_workers.rounded(33, 64) == 36
    assert by_workers.rounded(65, 1000) == 128
    assert replace(by_workers, micro_size=None).rounded(65, 1000) == 68


def test_a_spec_leaves_defaults_to_the_batch() -> None:
    limits = limits_of(Guards(), Statistic(), parts_of({"name": "noise_scale"}))
    assert (limits.smallest, limits.largest, limits.cooldown) == (64, 1024, 6400)
    alone = parts_of({"name": "noise_scale"}, workers=1)
    small = limits_of(Guards(shrink=True, min_size=2), Statistic(half_life_samples=77), alone)
    # One worker needs two micro-batches to see noise.
    assert (small.smallest, small.cooldown) == (17, 77)
