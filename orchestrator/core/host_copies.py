"""From a device to host memory without waiting."""

from __future__ import annotations

import torch
from torch import Tensor


def on_host(vector: Tensor) -> Tensor:
    """A copy in host memory that nobody waits for: it is complete when the device has done what it was given.

    Whoever reads it earlier reads what was there before; see ``train.recorder``, which waits for the step.
    """
    if vector.device.type == "cpu":
        return vector
    return torch.empty_like(vector, device="cpu", pin_memory=True).copy_(vector, non_blocking=True)
