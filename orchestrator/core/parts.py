"""What an engine is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.protocols import Exchange, RoundExchange
from orchestrator.spec.job import JobSpec


@dataclass(frozen=True, kw_only=True)
class EngineParts:
    """Everything that an engine may need to set itself up."""

    spec: JobSpec
    model: nn.Module
    """Freshly built, whole, in host memory."""
    build_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    """Makes the optimizer over the model's parameters as they are when it is called."""
    build_exchange: Callable[[], Exchange | RoundExchange]
    """For engines that leave gradients to the exchange."""
    collectives: Collectives
    device: torch.device
    code_folder: Path
    """Folder of the user's files, which relative paths of the spec start from."""
    run_folder: Path
    """Folder of the job, for what an engine leaves behind."""
