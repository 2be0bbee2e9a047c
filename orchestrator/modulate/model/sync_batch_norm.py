"""Batch norm whose statistics are those of all workers' samples."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.core.collectives import Collectives
from orchestrator.core.padding import UNDER_WAY
from orchestrator.modulate.model.batch_norms import batch_norms, move_running_statistics, plain
from orchestrator.modulate.model.layers import replace_forward
from orchestrator.spec.methods.model_modulators import SyncBatchNorm


class _Summed(torch.autograd.Function):
    """A sum over ranks, whose gradient on each rank is the sum of what all ranks have for it; any number of times."""

    @staticmethod
    def forward(ctx: Any, message: Tensor, collectives: Collectives) -> Tensor:
        ctx.collectives = collectives
        total = message.clone()
        collectives.sum_(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Summed.apply(gradients[0].contiguous(), ctx.collectives), None  # type: ignore[no-untyped-call]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def summed(message: Tensor, collectives: Collectives) -> Tensor:
    """The sum over ranks, differentiable; every rank calls it, and runs its backward, in the same order."""
    total: Tensor = _Summed.apply(message, collectives)  # type: ignore[no-untyped-call]
    return total


def statistics_over_ranks(inputs: Tensor, collectives: Collectives) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of each channel over the inputs of all ranks, which may differ in samples; padding counts for nothing.

    Every rank sends its own mean and squares, so that no precision is lost but to the mean of one channel.

    Args:
        inputs: ``[samples, channels, ...]``, at least one sample.
        collectives: over the ranks.

    Returns:
        Means and biased variances ``[channels]``, and of how many values they are, a scalar; all in float64.
    """
    dimensions = [dimension for dimension in range(inputs.dim()) if dimension != 1]
    variance, mean = torch.var_mean(inputs.to(_precise(inputs)), dimensions, correction=0)
    variance, mean = variance.double(), mean.double()
    num_values = 0 if UNDER_WAY.is_padding else inputs.numel() // inputs.shape[1]
    message = torch.cat([mean, variance + mean * mean, mean.new_ones(1)]) * num_values
    total = summed(message, collectives)
    count = total[-1].detach()
    means, squares = (total[:-1] / count).chunk(2)
    return means, (squares - means * means).clamp_min(0), count


def sync_batch_norm(collectives: Collectives, module: _BatchNorm, inputs: Tensor) -> Tensor:
    """Batch norm over the inputs of all ranks while training; torch's own in evaluation and on a single rank."""
    if not module.training or collectives.world_size == 1:
        return plain(module, inputs)
    module._check_input_dim(inputs)
    means, variances, count = statistics_over_ranks(inputs, collectives)
    dtype = _precise(inputs)
    shape = (1, -1, *[1] * (inputs.dim() - 2))
    # Centered first: scaling before would round what the mean takes away.
    centered = inputs - means.to(dtype).view(shape)
    scale = (variances + module.eps).rsqrt().to(dtype)
    outputs = centered * (scale if module.weight is None else scale * module.weight).view(shape)
    if module.bias is not None:
        outputs = outputs + module.bias.view(shape)
    if module.running_mean is not None:
        unbiased = variances * count / (count - 1).clamp_min(1)
        rows = (statistic.detach().to(module.running_mean.dtype).unsqueeze(0) for statistic in (means, unbiased))
        move_running_statistics(module, *rows)
    return outputs.to(inputs.dtype)


def _precise(inputs: Tensor) -> torch.dtype:
    return torch.promote_types(inputs.dtype, torch.float32)


class SynchronizedNormalization:
    """Batch norm over all workers. Satisfies ``core.protocols.ModelModulator``.

    While training every batch norm normalizes by mean and variance over the micro-batches that all workers compute at
    the same time, samples of all workers alike::

        y = weight (x - mean) / sqrt(var + eps) + bias        mean, var over the union of the workers' inputs

    Gradients flow through mean and var to the inputs of every worker. Each layer costs a message of 2 channels + 1
    numbers in the forward, and one in the backward. Running statistics are those of one worker with the whole batch,
    the same on all. Micro-batches of one worker, one after another, are normalized by themselves. State has the names
    that the recipe's model gives it. Every worker must run the same layers in the same order.

    Args:
        config: takes no arguments.
    """

    def __init__(self, config: SyncBatchNorm) -> None:
        self._config = config

    def change(self, model: nn.Module) -> nn.Module:
        """See ``core.protocols.ModelModulator``."""
        collectives = Collectives()
        for module in batch_norms(model, self._config.name).values():
            replace_forward(module, partial(sync_batch_norm, collectives))
        return model
