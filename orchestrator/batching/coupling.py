"""What a grown batch makes of the learning rate and of the optimizer's running averages. Pure numbers."""

from __future__ import annotations

import math

from orchestrator.spec.methods.controllers import Coupling


def lr_factor(coupling: Coupling, batch: int, reference: int, noise_scale: float = math.inf) -> float:
    """Factor on the scheduled rate, which was chosen for ``reference``.

    Args:
        coupling: the rule.
        batch: of the step, in samples.
        reference: batch whose factor is 1, in samples.
        noise_scale: phi in samples, read by gain; inf is noise alone, where gain is linear.
    """
    k = batch / reference
    match coupling:
        case "none":
            return 1.0
        case "linear":
            return k
        case "sqrt" | "sde":
            return math.sqrt(k)
        case "gain":
            return gain(k, noise_scale / reference)


def gain(k: float, noise: float) -> float:
    """AdaScale's gain, in [1, k] for k of at least 1: steps of the reference batch that a step of k of them is worth.

    Args:
        k: batch over the reference batch.
        noise: noise scale over the reference batch, at least 0; inf gives k.
    """
    return k if math.isinf(noise) else k * (noise + 1) / (noise + k)


def averages_ratio(coupling: Coupling, batch: int, reference: int) -> float:
    """How many times as fast per step the optimizer's averages forget: k under sde, else 1."""
    return batch / reference if coupling == "sde" else 1.0
