"""The controller around the policies: when it measures, what it hands on, what it remembers."""

import json
from typing import Any

import numpy as np
import pytest
from batching.controlled import READY, Drive, controller_of

from orchestrator.core.gradient_stats import GroupNorms

ADAPTIVE = ("norm_test", "inner_product_test", "noise_scale", "cosine_target", "goodput")


def test_it_measures_every_so_many_steps_and_decides_when_told() -> None:
    drive = Drive(controller_of({"name": "noise_scale", "statistic": {"every": 3}}))
    plans = drive.run(10)
    assert [plan.sample_statistic for plan in plans] == [step % 3 == 0 for step in range(10)]
    assert [plan.decision is not None for plan in plans] == [step >= 2 and step % 3 == 2 for step in range(10)]
    assert not any(plan.inner_products for plan in plans)


@pytest.mark.parametrize(("coupling", "factor"), [("none", 1.0), ("linear", 2.0), ("sqrt", 2**0.5), ("sde", 2**0.5)])
def test_the_rate_follows_a_grown_batch(coupling: str, factor: float) -> None:
    optimizer = {"name": "adamw", "lr": 0.1}
    drive = Drive(
        controller_of({"name": "noise_scale", "guards": READY, "coupling": coupling}, optimizer=optimizer), noise=2.0
    )
    before, *_, after = drive.run(4)
    assert (before.global_batch_size, before.lr_factor, before.averages_ratio) == (64, 1.0, 1.0)
    assert after.global_batch_size == 128
    assert after.lr_factor == pytest.approx(factor)
    assert after.averages_ratio == (2.0 if coupling == "sde" else 1.0)


def test_the_gain_is_that_of_the_noise_scale_at_the_change() -> None:
    drive = Drive(controller_of({"name": "noise_scale", "guards": READY, "coupling": "gain"}), noise=2.0, signal=0.01)
    assert drive.run(4)[-1].lr_factor == pytest.approx(2 * (200 + 64) / (200 + 128))


def test_a_cooldown_counts_samples() -> None:
    guards = {**READY, "cooldown_samples": 1280}
    drive = Drive(controller_of({"name": "noise_scale", "guards": guards, "statistic": {"every": 1}}), noise=20.0)
    sizes = [plan.global_batch_size for plan in drive.run(30)]
    # 1,280 samples are 10 steps of 128 and 5 of 256.
    assert sizes[:17] == [64] * 2 + [128] * 10 + [256] * 5
    assert sizes[17] == 512


def test_no_change_in_the_warmup() -> None:
    drive = Drive(controller_of({"name": "noise_scale", "guards": READY, "statistic": {"every": 1}}), noise=20.0)
    assert {plan.global_batch_size for plan in drive.run(10, is_warmup=True)} == {64}
    assert drive.run(2)[-1].global_batch_size > 64


def test_one_group_says_nothing() -> None:
    drive = Drive(controller_of({"name": "noise_scale", "guards": READY, "statistic": {"every": 1}}))
    drive._measured = [GroupNorms(sum_weighted_sq=64.0, norm_sq=1.0, num_groups=1, num_samples=64)] * 5
    assert all(plan.decision is None for plan in drive.run(5))


@pytest.mark.parametrize("name", [*ADAPTIVE, "adascale"])
def test_a_restored_controller_takes_the_same_decisions(name: str) -> None:
    config: dict[str, Any] = {"name": name, "statistic": {"every": 1}}
    config |= {"reference_batch": 8} if name == "adascale" else {"guards": {**READY, "shrink": True, "min_size": 16}}
    measured = None if name == "inner_product_test" else np.random.default_rng(0)
    whole = Drive(controller_of(config), noise=20.0, signal=0.1, generator=measured)
    (first,) = whole.run(1)
    whole.run(9, step_seconds=0.1, timed_plan=first)
    kept = json.loads(json.dumps(whole.controller.state_dict()))
    resumed = Drive(controller_of(config), noise=20.0, signal=0.1, generator=measured)
    resumed.controller.load_state_dict(kept)
    resumed.step, resumed.samples, resumed._measured = whole.step, whole.samples, list(whole._measured)
    if measured is not None:
        resumed.generator = np.random.default_rng(1)
        whole.generator = np.random.default_rng(1)
    assert resumed.run(20) == whole.run(20)
