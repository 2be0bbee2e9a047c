"""What an engine is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.protocols import Exchange, RoundExchange
from orchestrator.core.signal_to_noise import SignalToNoise
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
    noise: SignalToNoise | None = None
    """Told of each step's elements where somebody reads it; engines that show local gradients have it."""
    module_of: Mapping[str, int] = field(default_factory=dict)
    """Number of the module that each trainable parameter belongs to, by name; empty where nobody looks at modules."""
