"""What each policy asks for, against the papers' own equations and in the cases where the answer is known."""

import math
from typing import Any

import numpy as np
import pytest
from batching.controlled import READY, Drive, controller_of, drawn_norms, expected_norms

from orchestrator.batching.cosine_target import cosine_of_halves, noise_scale_multiple
from orchestrator.batching.inner_product_test import batches_of_tests
from orchestrator.batching.norm_test import noise_scale_multiple as norm_test_multiple
from orchestrator.batching.norm_test import published_target
from orchestrator.core.gradient_stats import GroupNorms, inner_product_variance, noise_and_signal

NOISE, SIGNAL = 200.0, 1.0


def last_decision(controller: dict[str, Any], *, noise: float = NOISE, signal: float = SIGNAL, **more: Any) -> Any:
    drive = Drive(
        controller_of({"guards": READY, "statistic": {"every": 1}, **controller}, **more), noise=noise, signal=signal
    )
    return drive.run(3)[-1].decision


@pytest.mark.parametrize(
    ("controller", "target"),
    [
        ({"name": "noise_scale"}, 200.0),
        ({"name": "noise_scale", "multiple": 0.25}, 50.0),
        ({"name": "norm_test", "eta": 0.5}, 3 * 200.0),
        ({"name": "norm_test", "eta": 0.25}, 15 * 200.0),
        ({"name": "norm_test", "eta": 0.1}, 99 * 200.0),
        ({"name": "cosine_target", "cosine": 0.8}, 8 * 200.0),
        ({"name": "cosine_target", "cosine": 0.2}, 0.5 * 200.0),
    ],
)
def test_targets_are_multiples_of_the_noise_scale(controller: dict[str, Any], target: float) -> None:
    decision = last_decision(controller)
    assert decision.target == pytest.approx(target)
    assert decision.noise_scale == pytest.approx(200.0)
    assert decision.noise == pytest.approx(NOISE)
    assert decision.signal == pytest.approx(SIGNAL)


def test_the_norm_test_says_which_multiple_it_is() -> None:
    assert "eta 0.5 = 3 x noise scale" in last_decision({"name": "norm_test", "eta": 0.5}).reason


@pytest.mark.parametrize("eta", [0.25, 0.5, 0.7])
def test_the_norm_test_turns_at_its_multiple_of_the_noise_scale(eta: float) -> None:
    """Averaged over many steps S / B crosses eta^2 |gbar|^2 where the corrected rule says."""
    flip = norm_test_multiple(eta) * NOISE / SIGNAL

    def excess(batch: float) -> float:
        generator = np.random.default_rng(0)
        total = 0.0
        for _ in range(4000):
            norms = drawn_norms(generator, round(batch), noise=NOISE, signal=SIGNAL)
            noise, _ = noise_and_signal(norms)
            total += noise / norms.num_samples - eta**2 * norms.norm_sq
        return total

    assert excess(0.9 * flip) > 0 > excess(1.1 * flip)


def test_the_published_rule_saturates_at_one_over_eta_squared() -> None:
    """Noise alone: the rule asks for 1 / eta^2 times the batch although no batch would do."""
    generator = np.random.default_rng(0)
    ratios = [
        published_target(drawn_norms(generator, 64, noise=NOISE, signal=0.0, groups=32, dims=2000), 0.5) / 64
        for _ in range(50)
    ]
    assert np.mean(ratios) == pytest.approx(4.0, rel=0.05)


def test_the_published_rule_leaves_a_batch_that_passes() -> None:
    norms = expected_norms(4096, noise=NOISE, signal=SIGNAL)
    assert published_target(norms, 0.5) == 4096
    assert published_target(expected_norms(64, noise=NOISE, signal=SIGNAL), 0.5) == math.ceil(
        200 / (0.25 * (1 + 200 / 64))
    )
    decision = last_decision({"name": "norm_test", "eta": 0.5, "corrected": False})
    assert decision.target == math.ceil(200 / (0.25 * (1 + 200 / 64)))


def test_a_constant_statistic_leads_to_a_constant_batch() -> None:
    guards = {**READY, "max_size": 4096}
    drive = Drive(
        controller_of({"name": "noise_scale", "statistic": {"every": 2}, "guards": guards}), noise=300.0, signal=1.0
    )
    drive.run(60)
    sizes = [plan.global_batch_size for plan in drive.plans]
    # From 64 by factors of at most 2, in multiples of 4 workers x 16 samples, to within the hysteresis of 300.
    assert sizes[-40:] == [256] * 40
    assert sorted(set(sizes)) == [64, 128, 256]


def test_the_cosine_of_two_halves_is_what_is_expected_of_it() -> None:
    generator = np.random.default_rng(1)
    halves = [drawn_norms(generator, 400, noise=NOISE, signal=SIGNAL, groups=2) for _ in range(3000)]
    # Of two groups of 200: |gbar|^2 = (|a|^2 + |b|^2 + 2 <a, b>) / 4.
    squares = np.mean([norms.sum_weighted_sq / 200 for norms in halves])
    products = np.mean([2 * norms.norm_sq - norms.sum_weighted_sq / 400 for norms in halves])
    assert products / (squares / 2) == pytest.approx(cosine_of_halves(400, NOISE / SIGNAL), rel=0.03)
    batch = noise_scale_multiple(0.3) * NOISE / SIGNAL
    assert cosine_of_halves(batch, NOISE / SIGNAL) == pytest.approx(0.3)


def test_inner_products_are_of_whole_gradients() -> None:
    """Two tensors whose products cancel: tensor by tensor there is variance, of the whole gradient there is none."""
    first = np.array([[2.0], [0.0], [2.0], [0.0]])
    second = 2.0 - first
    gradients = np.concatenate([first, second], axis=1)
    mean = gradients.mean(axis=0)
    products = gradients @ mean
    norms = GroupNorms(
        sum_weighted_sq=float((gradients**2).sum()),
        norm_sq=float(mean @ mean),
        num_groups=4,
        num_samples=4,
        group_sizes=(1,) * 4,
        inner_products=tuple(products.tolist()),
    )
    by_tensor = sum(np.var(part @ part.mean(axis=0), ddof=1) for part in (first, second))
    assert inner_product_variance(norms) == pytest.approx(np.var(products, ddof=1)) == 0.0
    assert by_tensor > 2


def test_the_two_tests_against_single_samples_gradients() -> None:
    """As the paper has them, from the gradients of single samples themselves."""
    generator = np.random.default_rng(2)
    gradients = np.array([1.0, 0.5, 0.0]) + generator.normal(size=(50, 3)) * [0.5, 1.0, 2.0]
    mean = gradients.mean(axis=0)
    products, norm_sq = gradients @ mean, float(mean @ mean)
    across = gradients - np.outer(products / norm_sq, mean)
    theta, nu = 0.7, 1.3
    expected = (
        np.var(products, ddof=1) / (theta**2 * norm_sq**2),
        np.var(across, axis=0, ddof=1).sum() / (nu**2 * norm_sq),
    )
    norms = GroupNorms(
        sum_weighted_sq=float((gradients**2).sum()),
        norm_sq=norm_sq,
        num_groups=50,
        num_samples=50,
        group_sizes=(1,) * 50,
        inner_products=tuple(products.tolist()),
    )
    noise, _ = noise_and_signal(norms)
    got = batches_of_tests(
        noise=noise, product_variance=inner_product_variance(norms), norm_sq=norm_sq, theta=theta, nu=nu
    )
    assert got == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("nu", "rule"), [(None, "inner-product test, theta 0.5"), (0.5, "orthogonality test, nu 0.5")])
def test_the_larger_of_the_two_tests_counts(nu: float | None, rule: str) -> None:
    drive = Drive(
        controller_of(
            {"name": "inner_product_test", "theta": 0.5, "nu": nu, "guards": READY, "statistic": {"every": 1}}
        ),
        noise=NOISE,
        signal=SIGNAL,
    )
    plans = drive.run(3)
    assert plans[0].inner_products
    decision = plans[-1].decision
    assert decision is not None
    assert rule in decision.reason
    norm_sq = SIGNAL + NOISE / 64
    variance = NOISE * norm_sq / 10
    expected = variance / (0.25 * norm_sq**2) if nu is None else (NOISE - variance / norm_sq) / (0.25 * norm_sq)
    assert decision.target == pytest.approx(expected, rel=0.02)


def test_without_a_gradient_every_batch_is_too_small() -> None:
    decision = last_decision({"name": "noise_scale"}, signal=-0.5)
    assert decision.target is None
    assert decision.batch == 128
