"""The value that data hands to the loop, and its way to the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.core.batches import map_tensors


@dataclass(slots=True, kw_only=True)
class LoadedMicroBatch:
    """One rank's share of one backward, on the rank's device. Satisfies ``core.protocols.MicroBatch``."""

    batch: Any
    """What ``collate`` returned."""
    weight: float
    """Share of the step's samples over all ranks; 0 for padding that keeps ranks in step."""
    share: float = 1.0
    """See ``core.protocols.MicroBatch``."""
    is_last: bool
    """Whether it is the rank's last of the step, or of the part of it that ``weight`` is a share of."""


def to_device(batch: Any, device: torch.device) -> Any:
    """The same structure with every tensor inside dicts, lists and tuples moved; anything else is left as it is."""
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))
