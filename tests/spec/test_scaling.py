"""What the batch makes of rates, averages and warmups, against values worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.optimizers import AdamW, Sgd
from orchestrator.spec.methods.schedules import ScalingConfig, Warmup
from orchestrator.spec.phases import phases_of
from orchestrator.spec.scaling import length_factor, scaled_beta, scaled_optimizer, scaling_factor, warmup_samples

NONE = ScalingConfig()


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
    assert (
        warmup_samples(warmup, NONE, global_batch_size=64, step_samples=64, epoch_samples=1000, total_samples=10_000)
        == expected
    )


@pytest.mark.parametrize(
    ("warmup", "expected"), [({"epochs": 0.5}, 2000.0), ({"samples": 77}, 308.0), ({"fraction": 0.1}, 4000.0)]
)
def test_a_linear_epoch_warmup_grows_with_the_batch(warmup: dict[str, Any], expected: float) -> None:
    """Also without a scaling rule: only the batch is compared."""
    scaling = ScalingConfig(reference_batch=16)
    grown = Warmup(**warmup, scale_with_batch=True)
    sizes = {"global_batch_size": 64, "step_samples": 64, "epoch_samples": 1000, "total_samples": 10_000}
    assert warmup_samples(grown, scaling, **sizes) == pytest.approx(expected)
    assert warmup_samples(Warmup(**warmup), scaling, **sizes) == pytest.approx(expected / 4)


def test_a_warmup_in_steps_counts_what_steps_use_up() -> None:
    """With a spare worker of eight, a step of 56 samples draws 64."""
    sizes = {"global_batch_size": 56, "step_samples": 64, "epoch_samples": 0, "total_samples": 10_000}
    assert warmup_samples(Warmup(steps=5), NONE, **sizes) == 320


def test_the_warmup_of_lamb_doubles_with_the_batch() -> None:
    """You et al., table of BERT: 1/320 of the training at 512, 1/5 at 32K."""
    warmup = Warmup(fraction=1 / 320, scale_with_batch=True)
    shares = [
        warmup_samples(
            warmup,
            ScalingConfig(reference_batch=512),
            global_batch_size=size,
            step_samples=size,
            epoch_samples=0,
            total_samples=10**9,
        )
        / 10**9
        for size in (512, 1024, 16384, 32768)
    ]
    assert shares == pytest.approx([1 / 320, 1 / 160, 1 / 10, 1 / 5])


def test_scaling_rules() -> None:
    assert scaling_factor(NONE, 1024) == scaling_factor(ScalingConfig(reference_batch=128), 1024) == 1.0
    assert scaling_factor(ScalingConfig(rule="linear", reference_batch=128), 1024) == 8.0
    assert scaling_factor(ScalingConfig(rule="sqrt", reference_batch=256), 1024) == 2.0
    assert scaling_factor(ScalingConfig(rule="sde", reference_batch=256), 64) == 0.5


def test_the_gain_is_that_of_adascale() -> None:
    """(var + sqr) / (var / k + sqr) with the variance of a reference batch, var = S / B0, sqr = G2 and phi = S / G2."""
    reference, k, sum_of_variances, norm_squared = 32, 8, 600.0, 2.0
    scaling = ScalingConfig(rule="gain", reference_batch=reference, noise_scale=sum_of_variances / norm_squared)
    variance = sum_of_variances / reference
    expected = (variance + norm_squared) / (variance / k + norm_squared)
    assert scaling_factor(scaling, k * reference) == pytest.approx(expected)


def test_the_gain_is_linear_where_noise_rules_and_saturates_where_it_does_not() -> None:
    assert scaling_factor(ScalingConfig(rule="gain", reference_batch=32, noise_scale=1e9), 320) == pytest.approx(10.0)
    few = ScalingConfig(rule="gain", reference_batch=32, noise_scale=96.0)
    assert scaling_factor(few, 32) == 1.0
    assert scaling_factor(few, 10**9) == pytest.approx(1 + 96 / 32)  # no batch is worth more steps than this


def test_sde_scales_every_number_of_adam() -> None:
    adam = AdamW(name="adamw", lr=0.002, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.3)
    grown = scaled_optimizer(adam, ScalingConfig(rule="sde", reference_batch=64), 256)
    assert dict(grown) | {"betas": None} == dict(adam) | {"lr": 0.004, "eps": 5e-9, "betas": None}
    assert grown.betas == pytest.approx((0.6, 0.996))
    smaller = scaled_optimizer(adam, ScalingConfig(rule="sde", reference_batch=64), 16)
    assert (smaller.lr, *smaller.betas, smaller.eps) == pytest.approx((0.001, 0.975, 0.99975, 2e-8))


def test_the_other_rules_scale_the_rate_only() -> None:
    adam = AdamW(name="adamw", lr=0.01)
    assert scaled_optimizer(adam, ScalingConfig(rule="linear", reference_batch=64), 256) == AdamW(name="adamw", lr=0.04)
    assert scaled_optimizer(Sgd(name="sgd"), NONE, 256) == Sgd(name="sgd")


def test_a_beta_forgets_equally_fast_per_sample() -> None:
    """To first order: after 10,000 samples the share of the past is that of the reference batch."""
    assert scaled_beta(0.9999, 8) ** (10_000 / 8) == pytest.approx(0.9999**10_000, rel=1e-3)


NUM_COORDINATES = 4000
NUM_SAMPLES = 8000


def path_of_adam(optimizer: AdamW, batch: int, *, seed: int) -> NDArray[np.float64]:
    """Mean of x^2 after each 400 samples of Adam on x^2 / 2, where the gradient of a sample is x + 10 z.

    Independent coordinates are as many repetitions: their mean hardly depends on the seed.
    """
    noise = np.random.default_rng(seed)
    x, m, v = (np.full(NUM_COORDINATES, start) for start in (1.0, 0.0, 0.0))
    beta1, beta2 = optimizer.betas
    path = []
    for step in range(1, NUM_SAMPLES // batch + 1):
        gradient = x + 10 / math.sqrt(batch) * noise.standard_normal(NUM_COORDINATES)
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        x = x - optimizer.lr * m / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + optimizer.eps)
        if step * batch % 400 == 0:
            path.append(float(np.mean(x**2)))
    return np.array(path)


@pytest.mark.parametrize(
    "optimizer",
    [
        AdamW(name="adamw", lr=0.03, betas=(0.99, 0.999), eps=1e-8),  # only the averages matter
        AdamW(name="adamw", lr=0.01, betas=(0.99, 0.999), eps=5.0),  # eps stands beside a second moment of 100
    ],
    ids=["betas", "eps"],
)
def test_sde_keeps_the_path_of_the_small_batch_where_sqrt_leaves_it(optimizer: AdamW) -> None:
    """A batch 16 times as large takes the small batch's path in samples; the rate alone is not enough for that."""
    expected = path_of_adam(optimizer, 1, seed=0)

    def distance(rule: str) -> float:
        scaled = scaled_optimizer(optimizer, ScalingConfig(rule=rule, reference_batch=1), 16)
        return float(np.mean(np.abs(np.log(path_of_adam(scaled, 16, seed=1) / expected))))

    # Two seeds of the small batch itself are about 0.02 apart.
    assert distance("sde") < 0.05
    assert distance("sqrt") > 2 * distance("sde")


@pytest.mark.parametrize(("size", "expected"), [(32, 1), (33, 2), (64, 2), (100, 4), (1024, 32), (8, 1)])
def test_as_many_updates_take_a_multiple_of_the_samples(size: int, expected: int) -> None:
    assert length_factor(ScalingConfig(same_updates=True, reference_batch=32), size) == expected
    assert length_factor(ScalingConfig(reference_batch=32), size) == 1


def with_same_updates(**sections: Any) -> JobSpec:
    """At a batch of four times the reference."""
    return JobSpec.model_validate(
        {
            "name": "updates",
            "recipe": {"target": "recipe.py:Tiny"},
            "train": {"epochs": 5},
            "batch": {"global_size": 128},
            "scaling": {"same_updates": True, "reference_batch": 32},
            **sections,
        }
    )


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        ({"epochs": 0.5}, {"epochs": 2.0}),
        ({"samples": 70}, {"samples": 280}),
        ({"steps": 7}, {}),
        ({"fraction": 0.1}, {}),
    ],
)
def test_all_lengths_but_those_in_updates_and_shares_are_multiplied(warmup: Any, expected: Any) -> None:
    (phase,) = phases_of(with_same_updates(schedule={"name": "cosine", "warmup": warmup}))
    assert (phase.train.epochs, phase.train.samples) == (20, None)
    assert phase.schedule.warmup == Warmup(**(expected or warmup))
    assert not phase.scaling.same_updates
    assert phases_of(phase) == (phase,)
    (in_samples,) = phases_of(with_same_updates(train={"samples": 1001}))
    assert (in_samples.train.epochs, in_samples.train.samples) == (None, 4004)


def test_every_phase_has_the_updates_of_its_own_reference() -> None:
    """The milestones move with the whole: a fall of the rate after half of the training stays there."""
    later = [
        {"train": {"epochs": 2}},
        {"train": {"epochs": 1}, "batch": {"global_size": 64}},
        {"train": {"samples": 10}, "scaling": {"reference_batch": 64}},
    ]
    phases = phases_of(with_same_updates(then=later))
    assert [(phase.train.epochs, phase.train.samples) for phase in phases] == [
        (20, None),
        (8, None),
        (2, None),
        (None, 10),
    ]
