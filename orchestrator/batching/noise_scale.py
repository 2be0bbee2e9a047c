"""A batch in proportion to the simple noise scale S / G2 (McCandlish et al., arXiv:1812.06162)."""

from __future__ import annotations

from orchestrator.batching.adaptive import AdaptiveController, Policy, Seen
from orchestrator.core.values import ControllerParts
from orchestrator.spec.methods.controllers import NoiseScale


class NoiseScalePolicy(Policy):
    """Args: multiple: batch over noise scale; rule: in words."""

    def __init__(self, multiple: float, rule: str) -> None:
        self._multiple = multiple
        self._rule = rule

    def target(self, seen: Seen) -> tuple[float, str]:
        """See the base class."""
        return self._multiple * seen.statistic.noise_scale, self._rule


def build_noise_scale(parts: ControllerParts) -> AdaptiveController:
    """The controller of a job."""
    config = parts.spec.batch.controller
    assert isinstance(config, NoiseScale)
    return AdaptiveController(config, parts, NoiseScalePolicy(config.multiple, f"{config.multiple:g} x noise scale"))
