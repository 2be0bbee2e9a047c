"""Autocast and dynamic loss scaling, on CPU and on GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types by the names that a spec has for them."""


class Precision:
    """Forward in the spec's precision; weights, gradients and optimizer state stay fp32.

    fp16 scales the loss dynamically: a step whose gradients overflow is skipped and the scale is halved. Gradients
    are summed over ranks before the test, and DTensors tell each other of what one of them found, so all ranks skip
    together.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._device = device
        self._dtype = DTYPES[name]
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)


class DynamicLossScale:
    """torch's dynamic loss scale for optimizers that look for overflows themselves; its state is GradScaler's."""

    def __init__(self, *, enabled: bool) -> None:
        self.is_enabled = enabled
        self._state: dict[str, Any] = torch.amp.GradScaler("cpu", enabled=enabled).state_dict()

    @property
    def scale(self) -> float:
        """What a loss is multiplied by."""
        return float(self._state["scale"]) if self.is_enabled else 1.0

    def update(self, *, overflowed: bool) -> None:
        """Shrink the scale after a step that overflowed, grow it after many that did not."""
        if not self.is_enabled:
            return
        state = self._state
        state["_growth_tracker"] = 0 if overflowed else state["_growth_tracker"] + 1
        if overflowed:
            state["scale"] *= state["backoff_factor"]
        elif state["_growth_tracker"] == state["growth_interval"]:
            state["scale"] *= state["growth_factor"]
            state["_growth_tracker"] = 0

    def state_dict(self) -> dict[str, Any]:
        """JSON values; empty where the precision needs no scale."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``, of this class or of torch's GradScaler."""
        if self.is_enabled and state:
            self._state = dict(state)
