"""Multiplicative noise on gradients: a larger batch with the noise of a smaller one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.protocols import LossFunction
from orchestrator.spec.methods.loss_modulators import GradientNoise


class NoisyLoss:
    """Multiplicative gradient noise (arXiv 1705.08741, section 4). Satisfies ``core.protocols.LossModulator``.

    The gradient of every micro-batch k is multiplied by a number of its own, whose mean is 1::

        g <- sum_k (n_k / B) z_k g_k,    z_k ~ N(1, sigma^2)

    Numbers come from the step's own generator on the CPU, so a resumed job draws those of the undisturbed one. The
    loss that is reported is the recipe's.

    Args:
        config: ``sigma`` >= 0.

    Differences from the paper: there every sample has its own number, here every micro-batch has, because a recipe's
    loss is the mean over one; they agree at ``batch.micro_size: 1``.
    """

    def __init__(self, config: GradientNoise) -> None:
        self._sigma = config.sigma

    def around(self, loss: LossFunction) -> LossFunction:
        """See ``core.protocols.LossModulator``."""

        def noisy(model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
            value, metrics = loss(model, batch)
            z = 1 + self._sigma * torch.randn(()).item()
            # The value stays, its gradient is multiplied.
            return value.detach() + z * (value - value.detach()), metrics

        return noisy
