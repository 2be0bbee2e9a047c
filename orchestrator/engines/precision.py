"""Autocast and dynamic loss scaling, on CPU and on GPU."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

_AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Forward in the spec's precision; weights, gradients and optimizer state stay fp32.

    fp16 scales the loss dynamically: a step whose gradients overflow is skipped and the scale is halved. Gradients
    are summed over ranks before the test, so all ranks skip together.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._device = device
        self._dtype = _AUTOCAST_TYPES.get(name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)
