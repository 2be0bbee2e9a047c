"""What the size of the batch makes of the learning rate, of an optimizer's averages and of the warmup.

With k = global batch size / reference batch, and phi the noise scale:

    none 1    linear k    sqrt k^0.5    gain k (phi + B0) / (phi + B)
    sde  k^0.5, beta -> 1 - k (1 - beta) for every beta, eps -> eps / k^0.5

and of the training's length: under ``same_updates`` ceil(k) times as many samples.
"""

from __future__ import annotations

import math
from typing import Any

from orchestrator.spec.methods.all_optimizers import OptimizerConfig
from orchestrator.spec.methods.schedules import ScalingConfig, ScalingRule, Warmup


def batch_ratio(scaling: ScalingConfig, global_batch_size: int) -> float:
    """k, the batch over the reference batch; 1 without a reference."""
    return 1.0 if scaling.reference_batch is None else global_batch_size / scaling.reference_batch


def length_factor(scaling: ScalingConfig, global_batch_size: int) -> int:
    """By how much same_updates makes a training longer: k, rounded up; 1 without it."""
    if not scaling.same_updates or scaling.reference_batch is None:
        return 1
    return -(-global_batch_size // scaling.reference_batch)


def customary_rule(optimizer: OptimizerConfig) -> ScalingRule:
    """How the rate of an optimizer is taken to follow the batch: of SGD in proportion, of the others by its root."""
    return "linear" if optimizer.name == "sgd" else "sqrt"


def rate_factor(rule: ScalingRule, batch: float, reference: float, noise_scale: float = math.inf) -> float:
    """Factor on a learning rate that was chosen for another batch.

    Args:
        rule: of scaling, or the coupling of a batch that changes.
        batch: of the step, in samples.
        reference: batch whose factor is 1, in samples.
        noise_scale: phi in samples, read by gain; inf is noise alone, where gain is linear.
    """
    k = batch / reference
    match rule:
        case "none":
            return 1.0
        case "linear":
            return k
        case "sqrt" | "sde":
            return math.sqrt(k)
        case "gain":
            return k if math.isinf(noise_scale) else k * (noise_scale + reference) / (noise_scale + batch)


def scaling_factor(scaling: ScalingConfig, global_batch_size: int) -> float:
    """Factor on the learning rate."""
    if scaling.reference_batch is None:
        return 1.0
    phi = math.inf if scaling.noise_scale is None else scaling.noise_scale
    return rate_factor(scaling.rule, global_batch_size, scaling.reference_batch, phi)


def scaled_beta(beta: float, k: float) -> float:
    """1 - k (1 - beta): a running average that forgets k times as fast per step, so equally fast per sample."""
    return 1 - k * (1 - beta)


def scaled_optimizer(optimizer: OptimizerConfig, scaling: ScalingConfig, global_batch_size: int) -> OptimizerConfig:
    """The optimizer as it trains with a batch: its own numbers scaled by the rule.

    Args:
        optimizer: as the spec has it, tuned at the reference batch; under sde with betas and eps.
        scaling: the rule; under sde every k (1 - beta) is below 1, see ``check``.
        global_batch_size: in samples.
    """
    numbers = dict(optimizer)
    scaled: dict[str, Any] = {"lr": optimizer.lr * scaling_factor(scaling, global_batch_size)}
    if scaling.rule == "sde":
        k = batch_ratio(scaling, global_batch_size)
        scaled["betas"] = tuple(scaled_beta(beta, k) for beta in numbers["betas"])
        scaled["eps"] = numbers["eps"] / math.sqrt(k)
    return optimizer.model_copy(update=scaled)


def warmup_factor(warmup: Warmup, scaling: ScalingConfig, global_batch_size: int) -> float:
    """By how much the batch makes the warmup longer: k under ``scale_with_batch``, else 1."""
    return batch_ratio(scaling, global_batch_size) if warmup.scale_with_batch else 1.0


def warmup_samples(
    warmup: Warmup | None,
    scaling: ScalingConfig,
    *,
    global_batch_size: int,
    step_samples: int,
    epoch_samples: int,
    total_samples: int,
) -> float:
    """Length of the warmup in samples; 0 without one.

    Args:
        warmup: as the spec has it.
        scaling: holds the reference batch.
        global_batch_size: in samples.
        step_samples: samples that one step uses up.
        epoch_samples: samples of one pass over the training data; read only where the warmup is in epochs.
        total_samples: length of the training.
    """
    if warmup is None:
        return 0.0
    if warmup.steps is not None:
        return float(warmup.steps * step_samples)
    factor = warmup_factor(warmup, scaling, global_batch_size)
    if warmup.epochs is not None:
        return factor * warmup.epochs * epoch_samples
    if warmup.samples is not None:
        return factor * warmup.samples
    return factor * (warmup.fraction or 0.0) * total_samples
