"""Estimates of a gradient's noise: without bias, for equal and unequal groups, and with honest errors."""

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.core.gradient_stats import (
    GroupNorms,
    RunningStatistic,
    inner_product_variance,
    noise_and_signal,
)

DIMENSIONS = 200
SIGMAS = np.linspace(0.2, 1.8, DIMENSIONS)
TRACE = float((SIGMAS**2).sum())
"""tr(Sigma), of one sample."""
NOISE_SCALE = 477.0
TRUE = np.full(DIMENSIONS, math.sqrt(TRACE / NOISE_SCALE / DIMENSIONS))
EQUAL = (16,) * 16
UNEQUAL = (40, 1, 7, 7, 60, 13)


def norms_of(gradients: NDArray[np.float64], sizes: NDArray[np.int64]) -> GroupNorms:
    """``gradients`` [groups, dimensions]: the mean of each group."""
    mean = sizes @ gradients / sizes.sum()
    return GroupNorms(
        sum_weighted_sq=float(sizes @ (gradients**2).sum(1)),
        norm_sq=float(mean @ mean),
        num_groups=len(sizes),
        num_samples=int(sizes.sum()),
        group_sizes=tuple(int(n) for n in sizes),
        inner_products=tuple(float(g @ mean) for g in gradients),
    )


def draw(generator: np.random.Generator, sizes: tuple[int, ...]) -> GroupNorms:
    counts = np.array(sizes)
    noise = generator.normal(size=(len(sizes), DIMENSIONS)) * SIGMAS
    return norms_of(TRUE + noise / np.sqrt(counts)[:, None], counts)


@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL, (32, 32), (1,) * 64], ids=["equal", "unequal", "two", "samples"])
def test_the_ratio_of_averages_is_the_noise_scale_and_the_average_of_ratios_is_not(sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    # Estimates of |G|^2 are the noisier the smaller the batch; the same relative error takes more steps then.
    steps = 2000 * (256 // sum(sizes)) ** 2
    estimates = np.array([noise_and_signal(draw(generator, sizes)) for _ in range(steps)])
    noise, signal = estimates.mean(0)
    assert noise == pytest.approx(TRACE, rel=0.05)
    assert noise / signal == pytest.approx(NOISE_SCALE, rel=0.05)
    assert abs((estimates[:, 0] / estimates[:, 1]).mean() / NOISE_SCALE - 1) > 0.1


def test_groups_of_equal_size_give_the_two_batch_form() -> None:
    norms = draw(np.random.default_rng(2), EQUAL)
    n, num_samples = 16, 256
    mean_square, norm_sq = norms.sum_weighted_sq / num_samples, norms.norm_sq
    noise, signal = noise_and_signal(norms)
    assert noise == pytest.approx((mean_square - norm_sq) / (1 / n - 1 / num_samples))
    assert signal == pytest.approx((num_samples * norm_sq - n * mean_square) / (num_samples - n))


def test_groups_that_agree_have_no_noise_and_rounding_makes_none_of_it_negative() -> None:
    norms = GroupNorms(sum_weighted_sq=24.0 - 1e-12, norm_sq=2.0, num_groups=3, num_samples=12)
    assert noise_and_signal(norms) == (0.0, 2.0)


def test_one_group_says_nothing() -> None:
    alone = GroupNorms(sum_weighted_sq=8.0, norm_sq=2.0, num_groups=1, num_samples=4)
    with pytest.raises(ValueError, match="Invalid num_groups value: 1"):
        noise_and_signal(alone)
    with pytest.raises(ValueError, match="Invalid inner_products value: None"):
        inner_product_variance(alone)
    statistic = RunningStatistic(100.0)
    statistic.update(alone, 4)
    assert statistic.num_observations == 0
    assert math.isnan(statistic.noise)
    assert math.isnan(statistic.noise_scale)


@pytest.mark.parametrize("sizes", [(1,) * 12, (5, 1, 2, 9, 3)])
def test_the_variance_of_inner_products_is_that_of_whole_gradients(sizes: tuple[int, ...]) -> None:
    # Against a given direction: the groups' own mean moves with them, which the estimate does not see.
    generator = np.random.default_rng(3)
    counts = np.array(sizes)
    direction = TRUE * 40
    values = []
    for _ in range(4000):
        gradients = TRUE + generator.normal(size=(len(sizes), DIMENSIONS)) * SIGMAS / np.sqrt(counts)[:, None]
        products = gradients @ direction
        values.append(
            inner_product_variance(
                GroupNorms(
                    sum_weighted_sq=0.0,
                    norm_sq=float(counts @ products / counts.sum()),
                    num_groups=len(sizes),
                    num_samples=int(counts.sum()),
                    group_sizes=sizes,
                    inner_products=tuple(products),
                )
            )
        )
    assert np.mean(values) == pytest.approx(float(((SIGMAS * direction) ** 2).sum()), rel=0.05)


def test_variances_of_single_tensors_do_not_add_up_to_that_of_the_model() -> None:
    # What is summed tensor by tensor drops the covariance between them: here all of it.
    gradients = np.array([[1.0, -1.0], [3.0, -3.0], [5.0, -5.0]])
    ones = np.ones(3, dtype=np.int64)
    whole = inner_product_variance(norms_of(gradients, ones))
    by_tensor = sum(inner_product_variance(norms_of(gradients[:, [i]], ones)) for i in range(2))
    assert whole == pytest.approx(np.var(gradients @ gradients.mean(0), ddof=1))
    assert whole == pytest.approx(2 * by_tensor)


def test_what_was_measured_long_ago_counts_by_the_samples_since() -> None:
    statistic = RunningStatistic(half_life_samples=100.0)
    first = GroupNorms(sum_weighted_sq=30.0, norm_sq=2.0, num_groups=2, num_samples=10)
    second = GroupNorms(sum_weighted_sq=50.0, norm_sq=3.0, num_groups=2, num_samples=10)
    statistic.update(first, 1000)
    assert (statistic.noise, statistic.signal) == noise_and_signal(first) == (10.0, 1.0)
    statistic.update(second, 1200)  # two half-lives later
    assert statistic.noise == pytest.approx((10.0 / 4 + 20.0) / 1.25)
    assert statistic.signal == pytest.approx((1.0 / 4 + 1.0) / 1.25)
    assert statistic.noise_scale == pytest.approx(statistic.noise / statistic.signal)


def test_the_average_ignores_the_batch_that_was_measured() -> None:
    generator = np.random.default_rng(4)
    statistic = RunningStatistic(half_life_samples=1e9)
    samples = 0
    for step in range(1500):
        norms = draw(generator, (16,) * (8 if step < 700 else 64))
        samples += norms.num_samples
        statistic.update(norms, samples)
    assert statistic.noise_scale == pytest.approx(NOISE_SCALE, rel=0.05)


def test_standard_errors_are_the_spread_of_the_averages() -> None:
    generator = np.random.default_rng(5)
    ends, claims = [], []
    for _ in range(300):
        statistic = RunningStatistic(half_life_samples=256 * 20)
        for step in range(1, 101):
            statistic.update(draw(generator, EQUAL), step * 256)
        ends.append((statistic.noise, statistic.signal, statistic.noise_scale))
        claims.append((statistic.noise_error, statistic.signal_error, statistic.noise_scale_error))
    assert np.median(claims, axis=0) == pytest.approx(np.std(ends, axis=0), rel=0.15)


def test_errors_of_too_little_are_infinite() -> None:
    statistic = RunningStatistic(100.0)
    errors = lambda: (statistic.noise_error, statistic.signal_error, statistic.noise_scale_error)  # noqa: E731
    assert errors() == (math.inf,) * 3
    statistic.update(GroupNorms(sum_weighted_sq=30.0, norm_sq=2.0, num_groups=2, num_samples=10), 10)
    assert errors() == (math.inf,) * 3
    statistic.update(GroupNorms(sum_weighted_sq=30.0, norm_sq=2.0, num_groups=2, num_samples=10), 20)
    assert errors() == pytest.approx((0.0, 0.0, 0.0), abs=1e-6)


def test_a_signal_below_zero_is_told_and_its_noise_scale_is_infinite() -> None:
    statistic = RunningStatistic(100.0)
    statistic.update(GroupNorms(sum_weighted_sq=100.0, norm_sq=1.0, num_groups=2, num_samples=10), 10)
    assert statistic.signal == -8.0
    assert statistic.noise_scale == math.inf


def test_state_survives_json_and_goes_on_alike() -> None:
    generator = np.random.default_rng(6)
    observed = [draw(generator, UNEQUAL) for _ in range(20)]
    whole, first, second = (RunningStatistic(1000.0) for _ in range(3))
    for step, norms in enumerate(observed):
        whole.update(norms, step * 128)
        (first if step < 7 else second).update(norms, step * 128)
        if step == 6:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("half_life", [0.0, -1.0, math.nan])
def test_half_lives_are_above_zero(half_life: float) -> None:
    with pytest.raises(ValueError, match="Invalid half_life_samples value"):
        RunningStatistic(half_life)
