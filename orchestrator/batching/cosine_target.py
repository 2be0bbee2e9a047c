"""SimiGrad's aim (Qin et al., NeurIPS 2021): the gradients of a batch's two halves have a given cosine.

A half of B samples has E |g|^2 = G2 + 2 S / B, and the product of two halves is G2 in expectation. So the cosine is
about 1 / (1 + 2 (S / G2) / B), and it is c where B = 2 c / (1 - c) x noise scale: there SimiGrad's steps of 10% come to
rest.
"""

from __future__ import annotations

from orchestrator.batching.adaptive import AdaptiveController
from orchestrator.batching.noise_scale import NoiseScalePolicy
from orchestrator.core.values import ControllerParts
from orchestrator.spec.methods.controllers import CosineTarget


def cosine_of_halves(batch: float, noise_scale: float) -> float:
    """Expected cosine of the gradients of a batch's two halves; both in samples."""
    return 1 / (1 + 2 * noise_scale / batch)


def noise_scale_multiple(cosine: float) -> float:
    """Batch over noise scale at which the halves have this cosine."""
    return 2 * cosine / (1 - cosine)


def build_cosine_target(parts: ControllerParts) -> AdaptiveController:
    """The controller of a job."""
    config = parts.spec.batch.controller
    assert isinstance(config, CosineTarget)
    multiple = noise_scale_multiple(config.cosine)
    rule = f"cosine {config.cosine:g} = {multiple:.3g} x noise scale"
    return AdaptiveController(config, parts, NoiseScalePolicy(multiple, rule))
