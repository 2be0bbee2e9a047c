"""The inner-product test and its augmented form (Bollapragada, Byrd, Nocedal 2018, as in arXiv:2402.11215).

    inner product   B' = V / (theta^2 |gbar|^4)             V = Var <g, gbar> over single samples' gradients g
    orthogonality   B' = (S - V / |gbar|^2) / (nu^2 |gbar|^2)

S - V / |gbar|^2 is the variance of what of g stands at right angles to gbar. Products are of whole gradients: summed
tensor by tensor before the variance, not after it, as tensors' products do not vary independently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.batching.adaptive import AdaptiveController, Policy, Seen
from orchestrator.batching.guards import half_life
from orchestrator.core.gradient_stats import GroupNorms, inner_product_variance
from orchestrator.core.values import ControllerParts
from orchestrator.spec.methods.controllers import InnerProductTest


def batches_of_tests(
    *, noise: float, product_variance: float, norm_sq: float, theta: float, nu: float | None
) -> tuple[float, float]:
    """The batches in samples that the two tests ask for; 0 for the second where it is not made.

    Args:
        noise: S.
        product_variance: V.
        norm_sq: |gbar|^2; where it is not above 0, both are inf.
        theta: of the inner-product test.
        nu: of the orthogonality test, or None.
    """
    if norm_sq <= 0:
        return math.inf, 0.0 if nu is None else math.inf
    along = product_variance / (theta**2 * norm_sq**2)
    across = 0.0 if nu is None else max(noise - product_variance / norm_sq, 0.0) / (nu**2 * norm_sq)
    return along, across


class InnerProductPolicy(Policy):
    """Averages V over the measured steps as the statistic does S and G2; |gbar|^2 is that of the present batch.

    Args:
        config: the tests.
        half_life_samples: samples after which a measured step counts half.
    """

    inner_products = True

    def __init__(self, config: InnerProductTest, half_life_samples: float) -> None:
        self._config = config
        self._half_life = half_life_samples
        self._weight = self._sum = 0.0
        self._samples = 0

    def take(self, norms: GroupNorms, samples: int) -> None:
        """See the base class."""
        decay = 0.5 ** ((samples - self._samples) / self._half_life)
        self._weight = self._weight * decay + 1
        self._sum = self._sum * decay + inner_product_variance(norms)
        self._samples = samples

    def target(self, seen: Seen) -> tuple[float, str]:
        """See the base class."""
        config, statistic = self._config, seen.statistic
        along, across = batches_of_tests(
            noise=statistic.noise,
            product_variance=self._sum / self._weight,
            norm_sq=statistic.signal + statistic.noise / seen.batch,
            theta=config.theta,
            nu=config.nu,
        )
        if across > along:
            return across, f"orthogonality test, nu {config.nu:g}"
        return along, f"inner-product test, theta {config.theta:g}"

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"weight": self._weight, "sum": self._sum, "samples": self._samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See the base class."""
        self._weight, self._sum = float(state["weight"]), float(state["sum"])
        self._samples = int(state["samples"])


def build_inner_product_test(parts: ControllerParts) -> AdaptiveController:
    """The controller of a job."""
    batch = parts.spec.batch
    config = batch.controller
    assert isinstance(config, InnerProductTest)
    policy = InnerProductPolicy(config, half_life(config.statistic, batch.global_size))
    return AdaptiveController(config, parts, policy)
