"""What the literature says of batch and rate, worked out: why rates stop growing with the batch, and where."""

import math

import numpy as np
import pytest
from scipy.linalg import eigh


def best_rate(batch: float, correlation: float, *, dims: int = 64, ratio: float = 1 / 32) -> float:
    """Best rate of sign descent with equal gradients and an equicorrelated Hessian (Li et al., arXiv:2405.14578).

    The mean of a coordinate's sign is mu = erf(|g| / sigma sqrt(B / 2)), and the loss falls most at
    sum mu g / (sum H_ii + sum over i != j of mu_i mu_j H_ij).
    """
    mu = math.erf(ratio * math.sqrt(batch / 2))
    return mu * dims / (dims + dims * (dims - 1) * correlation * mu**2)


def test_rates_of_sign_descent_surge_and_fall() -> None:
    batches = [4.0**power for power in range(9)]
    independent = [best_rate(batch, 0.0) for batch in batches]
    assert independent == sorted(independent)
    correlated = [best_rate(batch, 0.3) for batch in batches]
    assert batches[int(np.argmax(correlated))] == 64
    # At mu = sqrt(sum H_ii / sum of the rest of H), the noise scale of signs.
    beta = math.sqrt(1 / (0.3 * 63))
    assert correlated[-1] / max(correlated) == pytest.approx(2 * beta / (1 + beta**2), rel=0.02)
    assert correlated[-1] / max(correlated) == pytest.approx(0.44, abs=0.01)
    assert batches[int(np.argmax([best_rate(batch, 0.05) for batch in batches]))] > 64


@pytest.mark.parametrize(
    ("batch", "published"), [(16, 19.8), (64, 13.9), (128, 13.0), (256, 12.5), (1024, 12.1), (8192, 12.0)]
)
def test_a_batchs_sharpest_direction_is_sharper_than_the_losss(batch: int, published: float) -> None:
    """Spiked random matrices (arXiv:2006.09092): lambda + (P / B) sigma^2 / lambda, here with lambda 12 and P 1,500."""
    size, spike = 1500, 12.0
    assert spike + size / batch / spike == pytest.approx(published, abs=0.1)
    # A third of the size and of the batch: the same ratio, which alone counts.
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(500, 500))
    hessian = (noise + noise.T) / math.sqrt(2) / math.sqrt(batch / 3)
    hessian[0, 0] += spike
    (largest,) = eigh(hessian, eigvals_only=True, subset_by_index=[499, 499])
    assert largest == pytest.approx(published, rel=0.03)


def test_below_the_threshold_the_spike_drowns() -> None:
    """Where sigma sqrt(P / B) is above lambda the edge of the noise, 2 sigma sqrt(P / B), is all there is."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(500, 500))
    hessian = (noise + noise.T) / math.sqrt(2) / math.sqrt(2.0)
    hessian[0, 0] += 12.0
    (largest,) = eigh(hessian, eigvals_only=True, subset_by_index=[499, 499])
    assert largest == pytest.approx(2 * math.sqrt(250), rel=0.03)
