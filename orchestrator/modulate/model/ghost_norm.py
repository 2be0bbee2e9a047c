"""Ghost batch norm: a large batch is normalized in small parts, each by itself."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.modulate.model.batch_norms import batch_norms, move_running_statistics, plain
from orchestrator.modulate.model.layers import replace_forward
from orchestrator.spec.methods.model_modulators import GhostNorm


def ghost_sizes(num_samples: int, size: int) -> list[int]:
    """Samples of each ghost: as few ghosts as leave none above ``size``, as even as possible, larger ones first."""
    num_ghosts = -(-num_samples // size)
    least, num_larger = divmod(num_samples, num_ghosts)
    return [least + 1] * num_larger + [least] * (num_ghosts - num_larger)


def normalize_ghosts(
    inputs: Tensor, num_ghosts: int, module: _BatchNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize equally large ghosts in one pass.

    Args:
        inputs: ``[num_ghosts x samples, channels, ...]``, ghost after ghost.
        num_ghosts: at least 1.
        module: its weight, bias and eps are used.
        dtype: of the statistics.

    Returns:
        Outputs of the inputs' shape, and of each ghost the means and unbiased variances, ``[num_ghosts, channels]``.

    Raises:
        ValueError: where a ghost has one value for a channel.
    """
    samples, channels = len(inputs) // num_ghosts, inputs.shape[1]
    # A channel of a ghost is a channel to torch's own kernel.
    folded = inputs.unflatten(0, (num_ghosts, samples)).transpose(0, 1).flatten(1, 2)
    means, variances = torch.zeros(2, num_ghosts * channels, dtype=dtype, device=inputs.device).unbind()
    weight, bias = (None if p is None else p.repeat(num_ghosts) for p in (module.weight, module.bias))
    # Running statistics of momentum 1 are the batch's own.
    outputs = functional.batch_norm(folded, means, variances, weight, bias, True, 1.0, module.eps)
    outputs = outputs.unflatten(1, (num_ghosts, channels)).transpose(0, 1).flatten(0, 1)
    return outputs, means.view(num_ghosts, channels), variances.view(num_ghosts, channels)


def ghost_batch_norm(size: int, module: _BatchNorm, inputs: Tensor) -> Tensor:
    """Batch norm over ghosts of at most ``size`` samples while training; torch's own in evaluation."""
    if not module.training or len(inputs) <= size:
        return plain(module, inputs)
    module._check_input_dim(inputs)
    dtype = torch.float32 if module.running_mean is None else module.running_mean.dtype
    dtype = torch.promote_types(dtype, inputs.dtype)
    sizes = ghost_sizes(len(inputs), size)
    parts, start = [], 0
    for ghost_size in dict.fromkeys(sizes):  # one size, or two that differ by 1
        num_ghosts = sizes.count(ghost_size)
        stop = start + num_ghosts * ghost_size
        parts.append(normalize_ghosts(inputs[start:stop], num_ghosts, module, dtype))
        start = stop
    outputs, means, variances = (_joined(pieces) for pieces in zip(*parts, strict=True))
    move_running_statistics(module, means, variances)
    return outputs


def _joined(pieces: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


class GhostNormalization:
    """Ghost batch norm (arXiv 1705.08741). Satisfies ``core.protocols.ModelModulator``.

    While training every batch norm of the model cuts the batch that it is given into ghosts X_1 ... X_K, in order, and
    normalizes each by itself::

        y = weight (x - mean(X_l)) / sqrt(var(X_l) + eps) + bias            x in X_l
        running <- (1 - eta)^K running + sum_l eta (1 - eta)^(K - l) statistic_l

    K = ceil(samples / size), the ghosts as even as possible. What a layer is given is a micro-batch of one worker, so a
    ghost never reaches over micro-batches or workers. Where one ghost is enough the layer is torch's to the last bit.
    Evaluation uses the running statistics. State has the names that the recipe's model gives it.

    Args:
        config: ``size`` >= 1, in samples.

    Differences from the paper: its printed running average, whose weights do not add up to 1, is not used; the
    variance is averaged, as torch does, not the deviation; a smaller last batch has fewer ghosts instead of smaller
    ones.
    """

    def __init__(self, config: GhostNorm) -> None:
        self._config = config

    def change(self, model: nn.Module) -> nn.Module:
        """See ``core.protocols.ModelModulator``."""
        for module in batch_norms(model, self._config.name).values():
            replace_forward(module, partial(ghost_batch_norm, self._config.size))
        return model
