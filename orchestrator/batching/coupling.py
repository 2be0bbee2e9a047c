"""What a grown batch makes of the learning rate and of the optimizer's running averages. Pure numbers."""

from __future__ import annotations

from orchestrator.spec.methods.controllers import Coupling
from orchestrator.spec.scaling import rate_factor


def gain(k: float, noise: float) -> float:
    """AdaScale's gain, in [1, k] for k of at least 1: steps of the reference batch that a step of k of them is worth.

    Args:
        k: batch over the reference batch.
        noise: noise scale over the reference batch, at least 0; inf gives k.
    """
    return rate_factor("gain", k, 1.0, noise)


def averages_ratio(coupling: Coupling, batch: int, reference: int) -> float:
    """How many times as fast per step the optimizer's averages forget: k under sde, else 1."""
    return batch / reference if coupling == "sde" else 1.0
