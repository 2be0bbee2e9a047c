"""AdAdaGrad's norm test (arXiv:2402.11215; Byrd et al. 2012): is the gradient's error small beside the gradient?

    test       S / B <= eta^2 |gbar|^2
    published  B' = S / (eta^2 |gbar|^2)            where a step fails it
    corrected  B' = (1 - eta^2) / eta^2  x  S / G2  where it turns in expectation, as E |gbar|^2 = G2 + S / B

S estimates tr(Sigma), G2 the true gradient's squared norm, and S / G2 is the noise scale.
"""

from __future__ import annotations

import math

from orchestrator.batching.adaptive import AdaptiveController, Policy, Seen
from orchestrator.core.gradient_stats import GroupNorms, noise_and_signal
from orchestrator.core.values import ControllerParts
from orchestrator.spec.methods.controllers import NormTest


def noise_scale_multiple(eta: float) -> float:
    """Batch over noise scale at which the test turns in expectation."""
    return (1 - eta**2) / eta**2


def published_target(norms: GroupNorms, eta: float) -> float:
    """The batch that the published rule asks for after one step, in samples; its own batch where the test passes."""
    noise, _ = noise_and_signal(norms)
    if norms.norm_sq == 0:
        return math.inf if noise > 0 else float(norms.num_samples)
    return max(float(norms.num_samples), math.ceil(noise / (eta**2 * norms.norm_sq)))


class NormTestPolicy(Policy):
    """Args: config: the test."""

    def __init__(self, config: NormTest) -> None:
        self._eta = config.eta
        self._corrected = config.corrected

    def target(self, seen: Seen) -> tuple[float, str]:
        """See the base class."""
        multiple = noise_scale_multiple(self._eta)
        rule = f"norm test, eta {self._eta:g} = {multiple:.3g} x noise scale"
        if self._corrected:
            return multiple * seen.statistic.noise_scale, rule
        return published_target(seen.norms, self._eta), rule


def build_norm_test(parts: ControllerParts) -> AdaptiveController:
    """The controller of a job."""
    config = parts.spec.batch.controller
    assert isinstance(config, NormTest)
    return AdaptiveController(config, parts, NormTestPolicy(config))
