"""What engines, and what works on the data of the steps ahead, are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.protocols import Exchange, LossFunction, RoundExchange
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


@dataclass(frozen=True, kw_only=True)
class DataParts:
    """What a phase's training looks like to something that works on the data of its coming steps."""

    model: nn.Module
    """The one that is trained, on its device."""
    loss: LossFunction
    """The recipe's own."""
    forward: Callable[[], AbstractContextManager[Any]]
    """Makes the context of a forward: its precision."""
    device: torch.device
    first_step: int
    """Steps taken when the phase began."""
    step: int
    """Steps taken now."""
    total_samples: int
    """Length of the phase."""
