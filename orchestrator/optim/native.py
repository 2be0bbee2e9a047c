"""torch's own optimizers, built from their configuration."""

from __future__ import annotations

import torch
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.optim.grouping import parameter_groups
from orchestrator.spec.methods.optimizers import AdamW, Sgd


def build_sgd(config: Sgd, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """torch.optim.SGD over the model's trainable parameters."""
    return torch.optim.SGD(
        parameter_groups(model, config),
        lr=config.lr,
        momentum=config.momentum,
        dampening=config.dampening,
        nesterov=config.nesterov,
    )


def build_adamw(config: AdamW, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """torch.optim.AdamW over the model's trainable parameters."""
    return torch.optim.AdamW(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        amsgrad=config.amsgrad,
    )
