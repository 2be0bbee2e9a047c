"""Batch-channel normalization: a batch norm, or running estimates in its place, and a norm over groups of channels."""

from __future__ import annotations

import math
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.core.padding import UNDER_WAY
from orchestrator.modulate.model.batch_norms import batch_norms, is_recomputed, plain
from orchestrator.modulate.model.layers import replace_forward
from orchestrator.spec.methods.model_modulators import BatchChannelNorm

EPS = 1e-5
"""Added to the variance of a group."""


def channel_norm(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalize each sample's groups of channels, over their channels and space, and scale them group by group.

    Args:
        inputs: ``[samples, channels, ...]``.
        weight: ``[groups]``; groups divide channels.
        bias: ``[groups]``.
    """
    num_groups = len(weight)
    each = inputs.shape[1] // num_groups
    scale, shift = (parameter.repeat_interleave(each) for parameter in (weight, bias))
    return functional.group_norm(inputs, num_groups, scale, shift, eps=EPS)


@torch.no_grad()
def move_estimates(module: _BatchNorm, inputs: Tensor, rate: float, collectives: Collectives) -> None:
    """Let the estimates follow the inputs of all ranks; padding counts for nothing.

    With m the inputs' mean and v the mean of (x - estimated mean)^2::

        mean <- (1 - rate) mean + rate m        var <- (1 - rate) var + rate v        the mean in v is the old one
    """
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    dimensions = [dimension for dimension in range(inputs.dim()) if dimension != 1]
    variance, mean = torch.var_mean(inputs.to(torch.float64), dimensions, correction=0)
    about_old = variance + (mean - module.running_mean) ** 2
    num_values = 0 if UNDER_WAY.is_padding else inputs.numel() // inputs.shape[1]
    total = torch.cat([mean, about_old, mean.new_ones(1)]) * num_values
    collectives.sum_(total)
    new_mean, new_variance = (total[:-1] / total[-1]).to(module.running_mean.dtype).chunk(2)
    module.running_mean.lerp_(new_mean, rate)
    module.running_var.lerp_(new_variance, rate)
    module.num_batches_tracked += 1


def estimated_norm(module: _BatchNorm, inputs: Tensor, rate: float, collectives: Collectives) -> Tensor:
    """Normalize by the estimates, which follow the inputs first while training; they are constants to gradients."""
    assert module.running_mean is not None
    assert module.running_var is not None
    module._check_input_dim(inputs)
    if module.training and not is_recomputed():
        move_estimates(module, inputs, rate, collectives)
    # Copies: the backward needs what the forward has used, and a further forward may come before it.
    mean, variance = module.running_mean.clone(), module.running_var.clone()
    return functional.batch_norm(inputs, mean, variance, module.weight, module.bias, False, 0.0, module.eps)


class BatchChannelNormalization:
    """Batch-channel normalization (arXiv 1911.09738). Satisfies ``core.protocols.ModelModulator``.

    Every batch norm of the model is followed by a channel norm: with z the output of the former, and mean and variance
    of a sample's group of channels over its channels and space::

        y = weight_g (z - mean(z_g)) / sqrt(var(z_g) + 1e-5) + bias_g

    With an ``estimate`` r, for micro-batches of one or two samples, z is normalized by running estimates in place of
    the batch's statistics; they are updated first, from the input, over all workers, and take no gradient::

        m = mean(x)                 mu <- (1 - r) mu + r m
        v = mean((x - mu_old)^2)    s2 <- (1 - r) s2 + r v           z = weight (x - mu) / sqrt(s2 + eps) + bias

    mu and s2 are the layer's running statistics, under their names. The state has two entries more for each layer,
    ``channel_weight`` and ``channel_bias``.

    Args:
        config: ``groups`` >= 1, a divisor of the channels of every batch norm; ``estimate`` in (0, 1] or None.

    Differences from the paper: its body could not be had; the equations are those of the authors' code, whose rate of
    the estimates is 0 unless set from outside.
    """

    def __init__(self, config: BatchChannelNorm) -> None:
        self._config = config

    def change(self, model: nn.Module) -> nn.Module:
        """See ``core.protocols.ModelModulator``."""
        found = batch_norms(model, self._config.name)
        self._check(found)
        collectives = Collectives()
        for module in found.values():
            like = next(t for t in (module.weight, module.running_mean, torch.empty(0)) if t is not None)
            for name, value in (("channel_weight", 1.0), ("channel_bias", 0.0)):
                values = torch.full((self._config.groups,), value, dtype=like.dtype, device=like.device)
                module.register_parameter(name, nn.Parameter(values))
            replace_forward(module, partial(_forward, self._config, collectives))
        return model

    def _check(self, found: dict[str, _BatchNorm]) -> None:
        groups = self._config.groups
        common = math.gcd(*(module.num_features for module in found.values()))
        legal = ", ".join(str(number) for number in range(1, common + 1) if common % number == 0)
        for name, module in found.items():
            if module.num_features % groups:
                raise RecipeError(
                    f"modulators: batch_channel_norm.groups = {groups} does not divide the {module.num_features} "
                    f"channels of {name or 'the model'}. Legal for all batch norms of this model: {legal}."
                )
            if self._config.estimate is not None and not module.track_running_stats:
                raise RecipeError(
                    f"modulators: batch_channel_norm.estimate needs the running statistics of {name or 'the model'}, "
                    "which keeps none. Legal: track_running_stats=True, or estimate: null."
                )


def _forward(config: BatchChannelNorm, collectives: Collectives, module: _BatchNorm, inputs: Tensor) -> Tensor:
    if config.estimate is None:
        normalized = plain(module, inputs)
    else:
        normalized = estimated_norm(module, inputs, config.estimate, collectives)
    return channel_norm(normalized, cast(Tensor, module.channel_weight), cast(Tensor, module.channel_bias))
